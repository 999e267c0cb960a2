"""A Hugging Face ``config.json`` read as data: sizes for the planner, constants for the runtime's mathematics.

Both dialects are read: transformers 4 (``torch_dtype``, ``rope_theta``, ``rope_scaling``) and
transformers 5 (``dtype``, ``rope_parameters``).  A key that transformers ignores for a family is
ignored here; a missing one takes transformers' default for that family, except the sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from flexplan.errors import ModelFilesError
from flexplan.shapes import ModelShape
from flexplan.strictjson import parse_json

RopeType = Literal["linear", "llama3"]
Dtype = Literal["float32", "float16", "bfloat16"]


class RopeScaling(BaseModel):
    """How rotary frequencies are stretched; only llama3 reads more than the factor."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    type: RopeType
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 0


class ModelMath(BaseModel):
    """What the mathematics of a model needs beyond its sizes.

    ``attention_scale`` multiplies the query-key products.  ``sliding_window`` is in tokens and None
    where no sequence can reach it; ModelShape.max_positions never exceeds it, so full attention is exact.
    ``dtype`` is the checkpoint's, in which a model computes unless another is asked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    activation: str
    norm_eps: float
    attention_scale: float
    dtype: Dtype = "float16"
    rope_theta: float | None = None
    rope_scaling: RopeScaling | None = None
    sliding_window: int | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None


OPT_DEFAULTS = {
    "activation_function": "relu",
    "max_position_embeddings": 2048,
    "word_embed_proj_dim": None,
    "do_layer_norm_before": True,
    "_remove_final_layer_norm": False,
    "enable_bias": True,
    "layer_norm_elementwise_affine": True,
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
ROTARY_DEFAULTS = {
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "num_key_value_heads": None,
    "head_dim": None,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10_000.0,
    "rope_scaling": None,
    "rope_parameters": None,
    "partial_rotary_factor": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_WINDOW = {"sliding_window": 4096, "use_sliding_window": False, "layer_types": None}
_MISTRAL = {"bos_token_id": 1, "eos_token_id": 2, "num_key_value_heads": 8, "max_position_embeddings": 131072}
# transformers' default of every optional key that a family reads
FAMILIES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "opt": OPT_DEFAULTS,
        "llama": ROTARY_DEFAULTS
        | {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2}
        | {"attention_bias": False, "mlp_bias": False},
        "mistral": ROTARY_DEFAULTS | _MISTRAL | {"sliding_window": 4096},
        "mixtral": ROTARY_DEFAULTS
        | _MISTRAL
        | {"rms_norm_eps": 1e-5, "rope_theta": 1e6, "sliding_window": None}
        | {"num_local_experts": 8, "num_experts_per_tok": 2},
        "qwen2": ROTARY_DEFAULTS | _WINDOW | {"num_key_value_heads": 32},
        "qwen3": ROTARY_DEFAULTS | _WINDOW | {"num_key_value_heads": 32, "head_dim": 128, "attention_bias": False},
    }
)
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_ACTIVATIONS = ("relu", "gelu", "gelu_new", "gelu_pytorch_tanh", "silu")
_DTYPE_BYTES: dict[Dtype, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
_RUNS_CODE = ("auto_map", "custom_pipelines")
_MOST = 1 << 30
_MOST_LAYERS = 4096


def read_config(source: str | Path | Mapping[str, Any], name: str | None = None) -> tuple[ModelShape, ModelMath]:
    """Sizes and constants of a model, from its directory, its ``config.json`` or that file's content.

    In a directory, the end and pad ids of ``generation_config.json`` come before those of ``config.json``,
    as they do in transformers.  A missing dtype counts as float16.
    """
    if isinstance(source, Mapping):
        return _parse(source, name or str(source.get("model_type", "model")), "config.json")
    path = Path(source)
    directory = path if path.is_dir() else path.parent
    config = _read_object(directory / "config.json" if path.is_dir() else path)
    generation = directory / "generation_config.json"
    if generation.is_file():
        ids = _read_object(generation)
        config = config | {k: ids[k] for k in ("eos_token_id", "pad_token_id") if ids.get(k) is not None}
    return _parse(config, name or directory.resolve().name, str(path))


def shape_from_config(source: str | Path | Mapping[str, Any], name: str | None = None) -> ModelShape:
    """Only the sizes of `read_config`."""
    return read_config(source, name)[0]


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or error
        raise ModelFilesError("FP501", f"{path} cannot be read: {reason}", fix="point at a model directory") from error
    except ValueError as error:
        raise ModelFilesError("FP501", f"{path} is not JSON: {error}", fix="download the file again") from error
    if not isinstance(found, dict):
        raise ModelFilesError("FP501", f"{path} holds a {type(found).__name__}, not an object", fix="download it again")
    return found


def _parse(config: Mapping[str, Any], name: str, where: str) -> tuple[ModelShape, ModelMath]:
    _refuse_code(config, where)
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ModelFilesError("FP504", f"{where}: model_type is {family!r}", fix=f"use a model of these types: {known}")
    fields = _Fields(config, family, where)
    return _opt(fields, name) if family == "opt" else _rotary(fields, name)


def _refuse_code(config: Mapping[str, Any], where: str) -> None:
    for key in _RUNS_CODE:
        if config.get(key):
            raise ModelFilesError(
                "FP505",
                f"{where}: {key!r} asks to run code that came with the model; flexplan runs none",
                fix="use a checkpoint of a model type that transformers has itself",
            )
    if config.get("quantization_config") is not None:
        raise ModelFilesError(
            "FP504",
            f"{where}: 'quantization_config' says that the weights are packed already",
            fix="use the checkpoint in float16 or bfloat16; flexplan compresses weights itself",
        )


class _Fields:
    """The keys that a family reads, each taken by a method that knows its type."""

    def __init__(self, config: Mapping[str, Any], family: str, where: str) -> None:
        self.family, self.where, self.given = family, where, config
        defaults = FAMILIES[family]
        sizes = (*_SIZES, "ffn_dim" if family == "opt" else "intermediate_size")
        for key in sizes:
            if key not in config:
                raise ModelFilesError("FP502", f"{where}: key {key!r} is missing", fix=f"a {family} model needs it")
        self.values = {**defaults, **{k: v for k, v in config.items() if k in defaults or k in sizes}}

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def wrong(self, key: str, allowed: str) -> ModelFilesError:
        """The error for a value that is not what it should be."""
        message = f"{self.where}: {key} is {self.values.get(key)!r}, allowed is {allowed}"
        return ModelFilesError("FP503", message, fix=f"correct {key} or download the file again")

    def count(self, key: str, most: int = _MOST) -> int:
        """A whole number from 1 to ``most``."""
        value = self.values.get(key)
        if type(value) is not int or not 1 <= value <= most:
            raise self.wrong(key, f"a whole number from 1 to {most}")
        return value

    def flag(self, key: str) -> bool:
        """A truth value; False where the family does not read the key."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def number(self, key: str) -> float:
        """A finite number above 0."""
        return _positive(self.values.get(key), key, self.where)

    def activation(self, key: str) -> str:
        """The name of an activation function."""
        value = self.values.get(key)
        value = "silu" if value == "swish" else value
        if value not in _ACTIVATIONS:
            raise self.wrong(key, f"one of {', '.join(_ACTIVATIONS)}")
        return str(value)

    def ids(self, key: str) -> tuple[int, ...]:
        """Token ids; none where the key is null or -1, which some checkpoints write for none."""
        value = self.values.get(key)
        if value is None or (value == -1 and type(value) is int):
            return ()
        found, vocab_size = value if isinstance(value, list) else [value], self.count("vocab_size")
        if not all(type(i) is int and 0 <= i < vocab_size for i in found):
            raise self.wrong(key, f"token ids from 0 to {vocab_size - 1}")
        return tuple(found)

    def one_id(self, key: str) -> int | None:
        """One token id, the first if there are several."""
        return next(iter(self.ids(key)), None)

    def dtype(self) -> Dtype:
        """Of the stored weights; float16 where none is given."""
        value = self.given.get("dtype") or self.given.get("torch_dtype") or "float16"
        for known in _DTYPE_BYTES:
            if str(value).removeprefix("torch.") == known:
                return known
        allowed = ", ".join(_DTYPE_BYTES)
        raise ModelFilesError("FP503", f"{self.where}: dtype is {value!r}", fix=f"use a checkpoint in {allowed}")

    def bytes_per_element(self) -> int:
        """Bytes of one stored weight."""
        return _DTYPE_BYTES[self.dtype()]

    def heads(self) -> tuple[int, int, int]:
        """Query heads, KV heads and the width of a head."""
        hidden, heads = self.count("hidden_size"), self.count("num_attention_heads")
        kv_heads = self.count("num_key_value_heads") if "num_key_value_heads" in self else heads
        if heads % kv_heads:
            raise self.uneven("num_attention_heads", heads, "num_key_value_heads", kv_heads)
        # transformers' Llama insists on this even where head_dim is given
        if hidden % heads and (self.family == "llama" or "head_dim" not in self):
            raise self.uneven("hidden_size", hidden, "num_attention_heads", heads)
        return heads, kv_heads, self.count("head_dim") if "head_dim" in self else hidden // heads

    def uneven(self, whole: str, size: int, part: str, by: int) -> ModelFilesError:
        """The error for sizes that do not divide."""
        message = f"{self.where}: {whole} {size} is not a multiple of {part} {by}"
        return ModelFilesError("FP506", message, fix=f"correct {whole} or {part}")


def _opt(f: _Fields, name: str) -> tuple[ModelShape, ModelMath]:
    heads, kv_heads, head_dim = f.heads()
    pre_norm, biased, affine = (
        f.flag(k) for k in ("do_layer_norm_before", "enable_bias", "layer_norm_elementwise_affine")
    )
    embed_key = "word_embed_proj_dim" if "word_embed_proj_dim" in f else "hidden_size"
    shape = ModelShape(
        name=name,
        family="opt",
        num_layers=f.count("num_hidden_layers", _MOST_LAYERS),
        hidden_size=f.count("hidden_size"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        ffn_size=f.count("ffn_dim"),
        gated=False,
        vocab_size=f.count("vocab_size"),
        embed_size=f.count(embed_key),
        tied_embeddings=f.flag("tie_word_embeddings"),
        positions="learned",
        max_positions=f.count("max_position_embeddings"),
        position_offset=2,
        norm="layer",
        pre_norm=pre_norm,
        final_norm=pre_norm and not f.flag("_remove_final_layer_norm"),
        norm_affine=affine,
        norm_bias=affine,
        qkv_bias=biased,
        out_bias=biased,
        mlp_bias=biased,
        bytes_per_element=f.bytes_per_element(),
    )
    return shape, _math(f, shape, activation=f.activation("activation_function"), norm_eps=1e-5)


def _rotary(f: _Fields, name: str) -> tuple[ModelShape, ModelMath]:
    heads, kv_heads, head_dim = f.heads()
    if head_dim % 2:
        raise ModelFilesError(
            "FP506", f"{f.where}: head_dim is {head_dim}, rotary positions need a multiple of 2", fix="correct head_dim"
        )
    experts, experts_per_token = _experts(f)
    window, positions = _window(f), f.count("max_position_embeddings")
    shape = ModelShape(
        name=name,
        family=f.family,
        num_layers=f.count("num_hidden_layers", _MOST_LAYERS),
        hidden_size=f.count("hidden_size"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        ffn_size=f.count("intermediate_size"),
        gated=True,
        vocab_size=f.count("vocab_size"),
        embed_size=f.count("hidden_size"),
        tied_embeddings=f.flag("tie_word_embeddings"),
        positions="rotary",
        max_positions=min(positions, window or positions),
        norm="rms",
        qkv_bias=f.family == "qwen2" or f.flag("attention_bias"),
        out_bias=f.flag("attention_bias"),
        mlp_bias=f.flag("mlp_bias"),
        qk_norm=f.family == "qwen3",
        num_experts=experts,
        experts_per_token=experts_per_token,
        bytes_per_element=f.bytes_per_element(),
    )
    theta, scaling = _rope(f)
    return shape, _math(
        f,
        shape,
        activation=f.activation("hidden_act"),
        norm_eps=f.number("rms_norm_eps"),
        rope_theta=theta,
        rope_scaling=scaling,
        sliding_window=window if window and window < positions else None,
    )


def _math(f: _Fields, shape: ModelShape, **constants: Any) -> ModelMath:
    return ModelMath(
        attention_scale=shape.head_dim**-0.5,
        dtype=f.dtype(),
        bos_token_id=f.one_id("bos_token_id"),
        eos_token_ids=f.ids("eos_token_id"),
        pad_token_id=f.one_id("pad_token_id"),
        **constants,
    )


def _experts(f: _Fields) -> tuple[int, int]:
    """Experts of a layer and those that a token uses; none where the family has none."""
    if f.family != "mixtral":
        return 0, 0
    experts = f.count("num_local_experts", _MOST_LAYERS)
    return experts, f.count("num_experts_per_tok", experts)


def _window(f: _Fields) -> int | None:
    """The sliding window in tokens, None where the family or the config uses none."""
    layers = f.values.get("layer_types") or []
    if not isinstance(layers, list) or any(kind not in ("full_attention", "sliding_attention") for kind in layers):
        raise f.wrong("layer_types", "a list of full_attention and sliding_attention")
    used = "use_sliding_window" not in f.values or f.flag("use_sliding_window")
    if "sliding_attention" in layers and not used:
        raise f.wrong("layer_types", "full_attention only, as use_sliding_window is false")
    return f.count("sliding_window") if used and "sliding_window" in f else None


def _rope(f: _Fields) -> tuple[float, RopeScaling | None]:
    """Base and scaling of the rotary frequencies, from either dialect."""
    key = "rope_scaling" if f.values.get("rope_scaling") else "rope_parameters"
    table = f.values.get(key) or {}
    if not isinstance(table, dict):
        raise f.wrong(key, "an object")
    table = {"rope_theta": f.values["rope_theta"], "partial_rotary_factor": f.values["partial_rotary_factor"]} | table
    if table["partial_rotary_factor"] not in (None, 1, 1.0):
        raise ModelFilesError(
            "FP504",
            f"{f.where}: partial_rotary_factor is {table['partial_rotary_factor']!r}, supported is 1",
            fix="use a model whose heads rotate whole",
        )
    return _positive(table["rope_theta"], "rope_theta", f.where), _scaling(f, table)


def _scaling(f: _Fields, table: dict[str, Any]) -> RopeScaling | None:
    kind = table.get("rope_type", table.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(type="linear", factor=_positive(table.get("factor"), "rope factor", f.where))
    if kind != "llama3":
        raise ModelFilesError(
            "FP504",
            f"{f.where}: rope_type is {kind!r}, supported are default, linear, llama3",
            fix="remove the scaling to run within the trained length, or use another model",
        )
    factor, low, high = (
        _positive(table.get(k), f"rope {k}", f.where) for k in ("factor", "low_freq_factor", "high_freq_factor")
    )
    if low >= high:
        raise ModelFilesError(
            "FP506", f"{f.where}: low_freq_factor {low} is not below high_freq_factor {high}", fix="correct either"
        )
    original = table.get("original_max_position_embeddings", f.count("max_position_embeddings"))
    if type(original) is not int or original < 1:
        message = f"{f.where}: original_max_position_embeddings is {original!r}, allowed is a whole number from 1"
        raise ModelFilesError("FP503", message, fix="correct it")
    return RopeScaling(
        type="llama3",
        factor=factor,
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_positions=original,
    )


def _positive(value: Any, key: str, where: str) -> float:
    if type(value) in (int, float) and 0 < value < 1e300:
        return float(value)
    message = f"{where}: {key} is {value!r}, allowed is a finite number above 0"
    raise ModelFilesError("FP503", message, fix=f"correct {key}")
