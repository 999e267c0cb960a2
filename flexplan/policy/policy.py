"""Policy: the declarative answer, which share of every tensor lives where and how a block is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from flexplan.errors import PolicyError, did_you_mean
from flexplan.files import parse_json
from flexplan.graph import TIERS
from flexplan.limits import MOST_FILE_BYTES, first_refused, shown
from flexplan.model import Packing

POLICY_VERSION = 1
_MOST_SEQUENCES = 1 << 18  # of a block
PACKED_BITS = (4, 8)
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

Percent = Annotated[float, Field(ge=0, le=100)]
Sequences = Annotated[int, Field(ge=1, le=_MOST_SEQUENCES)]
T = TypeVar("T")


def _speaking(cls: type[T]) -> type[T]:
    """Make the constructor raise PolicyError, with the field, the value and what is allowed."""
    validate = cls.__init__

    def __init__(self: T, /, *args: Any, **kwargs: Any) -> None:
        try:
            validate(self, *args, **kwargs)
        except ValidationError as error:
            raise _refusal(error) from None

    __init__.__wrapped__ = validate  # type: ignore[attr-defined]
    cls.__init__ = __init__  # type: ignore[method-assign, assignment]
    return cls


@_speaking
@dataclass(frozen=True, config=_STRICT)
class CompressionConfig:
    """Group-wise quantisation: ``group_size`` neighbours along ``group_dim`` share one scale (and zero point)."""

    num_bits: Annotated[int, Field(ge=2, le=8)] = 4
    group_size: Annotated[int, Field(ge=1, le=1 << 16)] = 64
    group_dim: Annotated[int, Field(ge=0, le=2)] = 0
    symmetric: bool = False
    enabled: bool = True


def _weight_config() -> CompressionConfig:
    return CompressionConfig(group_dim=0)


def _cache_config() -> CompressionConfig:
    return CompressionConfig(group_dim=2)


@_speaking
@dataclass(frozen=True, config=_STRICT)
class Policy:
    """Where everything lives and how it is run.

    Percents are 0..100; what the gpu and cpu shares leave is on disk.  ``attn_sparsity`` is the share of
    the value rows that decoding reads: 1.0 is dense.  (One description in circulation has it the other
    way round, 1.0 fully sparse; the reference's code and all its examples use 1.0 for dense.)
    ``sep_layer`` makes two layers of attention and feed-forward; None, where the model has them one after the other.
    ``group_dim`` counts over (out, in) for weights and (token, sequence x head, head_dim) for the cache.
    With ``cpu_cache_compute``, ``cache_stream_percent`` is the share of the host's keys and values that the gpu
    attends over by copying them meanwhile, so that the link's room is used, too.
    ``admit_tokens`` is how many tokens of prompts a pass of a rolling schedule takes in at the most, though always one
    prompt; 0 is as many as there are seats and doors for.
    ``room_percent`` of the mean answer that is expected is what a seat of a rolling schedule has room for, beyond what
    is there when its request comes in; an answer that grows longer moves to a larger seat, or comes in again if none
    is free.  0 is room for all that it may have.
    With ``experts_on_demand`` a decoding pass sends of a mixture's experts in host memory those that its router has
    chosen, once it has; without, all of them, ahead.  A prompt's tokens want nearly all, which are sent ahead anyhow.
    What every token computes with is then the first to be on the gpu.
    """

    gpu_batch_size: Sequences = 4
    num_gpu_batches: Sequences = 1
    w_gpu_percent: Percent = 100.0
    w_cpu_percent: Percent = 0.0
    cache_gpu_percent: Percent = 100.0
    cache_cpu_percent: Percent = 0.0
    act_gpu_percent: Percent = 100.0
    act_cpu_percent: Percent = 0.0
    overlap: bool = True
    sep_layer: bool | None = None
    pin_weight: bool = True
    cpu_cache_compute: bool = False
    attn_sparsity: float = 1.0
    compress_weight: bool = False
    comp_weight_config: CompressionConfig = Field(default_factory=_weight_config)
    compress_cache: bool = False
    comp_cache_config: CompressionConfig = Field(default_factory=_cache_config)
    cache_stream_percent: Percent = 0.0
    admit_tokens: Annotated[int, Field(ge=0, le=1 << 40)] = 0
    room_percent: Annotated[float, Field(ge=0, le=10_000)] = 0.0
    experts_on_demand: bool = False

    def __post_init__(self) -> None:
        for what in ("w", "cache", "act"):
            gpu, cpu = getattr(self, f"{what}_gpu_percent"), getattr(self, f"{what}_cpu_percent")
            if gpu + cpu > 100 + 1e-9:
                raise PolicyError(
                    "FP202",
                    f"{what}_gpu_percent {gpu:g} + {what}_cpu_percent {cpu:g} = {gpu + cpu:g}, allowed 0 to 100 in all",
                    fix="lower one of the two; what they leave of 100 goes to disk",
                )
        if self.block_size > _MOST_SEQUENCES:
            raise PolicyError(
                "FP210",
                f"gpu_batch_size {self.gpu_batch_size} x num_gpu_batches {self.num_gpu_batches} = {self.block_size} "
                f"sequences, allowed {_MOST_SEQUENCES}",
                fix="lower one of the two",
            )
        if not 0 < self.attn_sparsity <= 1:
            raise PolicyError(
                "FP203",
                f"attn_sparsity {self.attn_sparsity:g} is outside (0, 1]",
                fix="it is the share of value rows that are read: 1.0 is dense, 0.1 reads a tenth; "
                "if you meant 'no sparsity' by 0, write 1.0",
            )
        if self.attn_sparsity < 1 and self.cache_disk_percent:
            raise PolicyError(
                "FP206",
                f"attn_sparsity {self.attn_sparsity:g} with cache_disk_percent {self.cache_disk_percent:g}: a block of "
                "the disk holds the values of many tokens, and nearly all blocks would be read",
                fix="attn_sparsity=1.0, or cache_gpu_percent + cache_cpu_percent = 100",
            )
        if self.cache_stream_percent:
            self._refuse_sharing()
        if self.experts_on_demand:
            self._refuse_demand()
        if self.compress_weight:
            _refuse_packing("comp_weight_config", self.comp_weight_config, (0, 1))
        if self.compress_cache:
            _refuse_packing("comp_cache_config", self.comp_cache_config, (2,))

    def _refuse_sharing(self) -> None:
        """Raise PolicyError where attention cannot be shared between the host and the gpu."""
        share = f"cache_stream_percent {self.cache_stream_percent:g}"
        if not self.cpu_cache_compute:
            raise PolicyError(
                "FP206",
                f"{share} with cpu_cache_compute off: the gpu then attends over all of the cache",
                fix="cpu_cache_compute=True, or cache_stream_percent=0",
            )
        if self.attn_sparsity < 1:
            raise PolicyError(
                "FP206",
                f"{share} with attn_sparsity {self.attn_sparsity:g}: which of the streamed values count "
                "is the gpu's choice, made in another half of a step",
                fix="cache_stream_percent=0, or attn_sparsity=1.0",
            )

    def _refuse_demand(self) -> None:
        """Raise PolicyError where experts cannot be sent once they are chosen."""
        for wrong, field, why, fix in (
            (
                self.num_gpu_batches > 1,
                f"num_gpu_batches {self.num_gpu_batches}",
                "each micro-batch would wait for experts of its own",
                "num_gpu_batches=1",
            ),
            (
                self.sep_layer is False,
                "sep_layer off",
                "the router is in the middle of a whole layer",
                "sep_layer=True",
            ),
            (not self.pin_weight, "pin_weight off", "what is staged is staged ahead", "pin_weight=True"),
        ):
            if wrong:
                message = f"experts_on_demand with {field}: {why}"
                raise PolicyError("FP206", message, fix=f"{fix}, or experts_on_demand=False")

    @property
    def w_disk_percent(self) -> float:
        """Share of the weights on disk."""
        return _rest(self.w_gpu_percent, self.w_cpu_percent)

    @property
    def cache_disk_percent(self) -> float:
        """Share of the KV cache on disk."""
        return _rest(self.cache_gpu_percent, self.cache_cpu_percent)

    @property
    def act_disk_percent(self) -> float:
        """Share of the activations on disk."""
        return _rest(self.act_gpu_percent, self.act_cpu_percent)

    @property
    def block_size(self) -> int:
        """Sequences that share one pass over the weights."""
        return self.gpu_batch_size * self.num_gpu_batches

    def weight_packing(self, element_bytes: int) -> Packing | None:
        """How the matrices of the layers are packed, None where they are not."""
        return _packing(self.comp_weight_config, element_bytes, down=True) if self.compress_weight else None

    def cache_packing(self, element_bytes: int) -> Packing | None:
        """How keys and values are packed, None where they are not."""
        return _packing(self.comp_cache_config, element_bytes, down=False) if self.compress_cache else None

    @property
    def splits_steps(self) -> bool:
        """True where decoding may split a step in two: around attention on the host, or the values that it streams.

        The next layer's first half then runs before this layer's second.
        """
        return self.cpu_cache_compute or (self.attn_sparsity < 1 and self.cache_gpu_percent < 100)

    def shares(self, what: str) -> tuple[float, float, float]:
        """(gpu, cpu, disk) as fractions of 1, of ``what``: "w", "cache" or "act"."""
        return tuple(getattr(self, f"{what}_{tier}_percent") / 100 for tier in TIERS)

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return asdict(self)

    def to_json(self) -> str:
        """The policy as JSON with its version."""
        return json.dumps({"version": POLICY_VERSION, **self.to_dict()}, indent=2)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Policy:
        """A policy from plain data; unknown keys and wrong types raise PolicyError."""
        return cls.from_json(json.dumps(dict(given) if isinstance(given, Mapping) else given))

    @classmethod
    def from_json(cls, text: str | bytes) -> Policy:
        """A policy from JSON; duplicate or unknown keys, NaN and wrong types raise PolicyError."""
        given = read_strict_json(text, "policy")
        check_version(given.pop("version", POLICY_VERSION), "policy")
        try:
            return TypeAdapter(cls).validate_json(json.dumps(given))
        except ValidationError as error:
            raise _refusal(error) from None


def _rest(gpu: float, cpu: float) -> float:
    rest = 100 - gpu - cpu
    return rest if rest > 1e-7 else 0.0  # 33.333 + 66.667 leaves 1e-14, which is nobody's wish for a disk


def _packing(config: CompressionConfig, element_bytes: int, *, down: bool) -> Packing:
    down = down and config.group_dim == 0
    return Packing(config.num_bits, config.group_size, config.symmetric, element_bytes, down)


def _refuse_packing(field: str, config: CompressionConfig, group_dims: tuple[int, ...]) -> None:
    """Raise PolicyError for what cannot be packed that way."""
    fix = "switch the compression off, or correct its config"
    if not config.enabled:
        switch = {"comp_weight_config": "compress_weight", "comp_cache_config": "compress_cache"}[field]
        raise PolicyError("FP206", f"{switch} is on, {field}.enabled is off", fix=fix)
    if config.num_bits not in PACKED_BITS:
        raise PolicyError("FP214", f"{field}.num_bits {config.num_bits}, allowed {PACKED_BITS}", fix=fix)
    if config.group_dim not in group_dims:
        why = "; a group of tokens or of heads would tie what is appended and placed apart" if 2 in group_dims else ""
        allowed = " or ".join(map(str, group_dims))
        raise PolicyError("FP214", f"{field}.group_dim {config.group_dim}, allowed {allowed}{why}", fix=fix)


def field_names() -> tuple[str, ...]:
    """The names of the fields, in the order of the constructor."""
    return tuple(f.name for f in fields(Policy))


def check_version(version: object, what: str) -> None:
    """Refuse a file of another version."""
    if version != POLICY_VERSION or isinstance(version, bool):
        raise PolicyError(
            "FP204",
            f"{what} version {shown(version)}; this flexplan reads {POLICY_VERSION}",
            fix="solve again, or upgrade",
        )


def read_strict_json(text: str | bytes, what: str, most_bytes: int = MOST_FILE_BYTES) -> dict[str, Any]:
    """One JSON object; duplicate keys, NaN, infinities, deep or huge input raise PolicyError."""
    if len(text) > most_bytes:
        raise PolicyError("FP205", f"{what} is {len(text)} bytes, allowed {most_bytes}", fix="solve again")
    try:
        found = parse_json(text.decode() if isinstance(text, bytes) else text)
    except ValueError as error:
        raise PolicyError("FP205", f"{what} does not read: {error}", fix="solve again, or correct the file") from None
    if not isinstance(found, dict):
        raise PolicyError("FP205", f"{what} is a {type(found).__name__}, must be one JSON object", fix="solve again")
    return found


def _refusal(error: ValidationError) -> PolicyError:
    first = first_refused(error)
    if first.unknown:
        return PolicyError("FP207", f"{first.where}: no such field", fix=_did_you_mean(first.where.rpartition(".")[2]))
    return PolicyError("FP201", f"{first.where}: {first.says}", fix=f"correct {first.where or 'the policy'}")


def _did_you_mean(name: str) -> str:
    known = [*field_names(), *(f.name for f in fields(CompressionConfig))]
    return did_you_mean(name, known, "the fields are " + ", ".join(field_names()))
