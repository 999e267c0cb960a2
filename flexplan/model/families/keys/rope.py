"""The rotary frequencies that a ``config.json`` asks for, and how it stretches them to a longer context.

Both dialects are read: transformers 4 (``rope_theta``, ``rope_scaling``) and transformers 5 (``rope_parameters``).
What is missing takes transformers' default; what transformers would stumble over is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flexplan.errors import ModelFilesError
from flexplan.model.constants import RopeScaling
from flexplan.model.families.keys.fields import MOST, Fields, positive

Table = Mapping[str, Any]


class Rope(NamedTuple):
    """Base and scaling of the rotary frequencies, and how many elements of a head turn."""

    theta: float
    scaling: RopeScaling | None
    dim: int


def read_rope(f: Fields, head_dim: int, *, partial: bool = False, given: Table | None = None) -> Rope:
    """From either dialect, or from the table ``given``; ``partial``: the family may turn a part of a head."""
    table = rope_table(f) if given is None else given
    theta = positive(table["rope_theta"], "rope_theta", f.where)
    kind = table.get("rope_type", table.get("type", "default"))
    dim = _turned(f, table, head_dim) if partial else head_dim
    if dim % 2:
        message = f"{f.where}: head_dim is {dim}, rotary positions need a multiple of 2"
        raise ModelFilesError("FP506", message, fix="correct head_dim")
    if kind == "default":
        return Rope(theta, None, dim)
    # most of transformers' families read it with a scaling only
    if not partial and table.get("partial_rotary_factor") not in (None, 1):
        message = f"{f.where}: partial_rotary_factor is {table['partial_rotary_factor']!r}, supported is 1"
        raise ModelFilesError("FP504", message, fix="use a model whose heads rotate whole")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ModelFilesError(
            "FP504",
            f"{f.where}: rope_type is {kind!r}, supported are default, {', '.join(_KINDS)}",
            fix="use a model with positions of one of these kinds; without them its tokens would be others",
        )
    return Rope(theta, _KINDS[kind](_Rope(f, table, theta, dim)), dim)


def _turned(f: Fields, table: Table, head_dim: int) -> int:
    """Elements of a head that turn."""
    share = table.get("partial_rotary_factor")
    dim = head_dim if share is None else int(head_dim * positive(share, "partial_rotary_factor", f.where))
    if not 2 <= dim <= head_dim:
        message = f"{f.where}: partial_rotary_factor {share} of head_dim {head_dim} is {dim}"
        raise ModelFilesError("FP506", message, fix=f"allowed is what makes 2 to {head_dim} elements turn")
    return dim


def reach(scaling: RopeScaling | None, positions: int) -> int:
    """The longest sequence: longer than ``max_position_embeddings`` where that is the context before stretching.

    A bound of what is refused, no promise of quality.  For linear and dynamic scaling transformers' documentation says
    that ``max_position_embeddings`` stays what it was before (Vicuna and LongChat: 4096 or 2048, and a factor); a few
    makers wrote the stretched one beside the factor (DeepSeek-Coder, LLaMA-2-7B-32K), and nothing in the config tells
    the two apart but a context before stretching that it names.  Where it names none the documentation is believed:
    the other reading would refuse prompts that such models were made for.
    """
    if scaling is None or scaling.type in ("llama3", "longrope"):
        return positions
    before = positions if scaling.type == "dynamic" else scaling.original_max_positions or positions
    return max(positions, min(int(scaling.factor * before), MOST))


def rope_table(f: Fields, theta: str = "rope_theta", part: str = "partial_rotary_factor") -> Table:
    """The keys of either dialect in one table; ``theta`` and ``part`` are called so where they stand outside of one."""
    key = "rope_scaling" if f.values.get("rope_scaling") else "rope_parameters"
    given = f.values.get(key) or {}
    if not isinstance(given, dict):
        raise f.wrong(key, "an object")
    nested = sorted(name for name, value in given.items() if isinstance(value, dict))
    if nested:
        message = f"{f.where}: {key} has a table for {', '.join(map(repr, nested))}, supported is one for all layers"
        raise ModelFilesError("FP504", message, fix="use a model whose layers all turn alike")
    outer = {"rope_theta": f.values[theta], "partial_rotary_factor": f.values[part]}
    return outer | given


class _Rope:
    """The numbers of one table, each by its type."""

    def __init__(self, f: Fields, table: Table, theta: float, head_dim: int) -> None:
        self.f, self.table, self.theta, self.head_dim = f, table, theta, head_dim

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number above 0; ``default`` where there is none."""
        value = self.table.get(key)
        if value is None and default is not None:
            return default
        return positive(value, f"rope {key}", self.f.where)

    def given(self, key: str) -> float | None:
        """A number that may be missing; 0 counts as missing, as it does in transformers."""
        return self.number(key) if self.table.get(key) not in (None, 0) else None

    def original(self) -> int:
        """The context before stretching; a key of the config itself comes before one of the table."""
        key = "original_max_position_embeddings"
        value = self.f.given.get(key, self.table.get(key, self.positions()))
        if type(value) is not int or not 1 <= value <= MOST:
            raise self.wrong(key, value, f"a whole number from 1 to {MOST}")
        return value

    def positions(self) -> int:
        return self.f.count("max_position_embeddings")

    def factors(self, key: str) -> tuple[float, ...]:
        """A number for each pair of a head's elements."""
        value, wanted = self.table.get(key), self.head_dim // 2
        if not isinstance(value, list) or len(value) != wanted:
            shown = f"{len(value)} numbers" if isinstance(value, list) else value
            raise self.wrong(key, shown, f"a list of {wanted} numbers, half of head_dim {self.head_dim}")
        return tuple(positive(n, f"rope {key}", self.f.where) for n in value)

    def wrong(self, key: str, value: object, allowed: str) -> ModelFilesError:
        """The error for a value that is not what it should be."""
        message = f"{self.f.where}: rope {key} is {value!r}, allowed is {allowed}"
        return ModelFilesError("FP503", message, fix=f"correct {key}")


def _linear(r: _Rope) -> RopeScaling:
    return RopeScaling(type="linear", factor=r.number("factor"), original_max_positions=r.original())


def _dynamic(r: _Rope) -> RopeScaling:
    if r.head_dim < 4:
        raise r.wrong("rope_type", "dynamic", "another one where head_dim is 2")
    return RopeScaling(type="dynamic", factor=r.number("factor"), original_max_positions=r.positions())


def _yarn(r: _Rope) -> RopeScaling:
    if "factor" not in r.table:
        raise r.wrong("factor", None, "a finite number above 0")
    if r.theta == 1:
        raise r.wrong("rope_theta", r.theta, "any other than 1 for yarn")
    original, truncate = r.original(), r.table.get("truncate", True)
    if not isinstance(truncate, bool):
        raise r.wrong("truncate", truncate, "true or false")
    factor = r.number("factor", r.positions() / original)
    return RopeScaling(
        type="yarn",
        factor=factor,
        original_max_positions=original,
        attention_factor=r.number("attention_factor", _yarn_attention(r, factor)),
        beta_fast=r.given("beta_fast") or 32.0,
        beta_slow=r.given("beta_slow") or 1.0,
        truncate=truncate,
    )


def _yarn_attention(r: _Rope, factor: float) -> float:
    """What sharpens attention over the stretched context: 0.1 ln(factor) + 1, or a ratio of two such terms."""
    part, whole = r.given("mscale"), r.given("mscale_all_dim")
    if factor <= 1:
        return 1.0
    if part and whole:
        return (0.1 * part * math.log(factor) + 1.0) / (0.1 * whole * math.log(factor) + 1.0)
    return 0.1 * math.log(factor) + 1.0


def _longrope(r: _Rope) -> RopeScaling:
    original = r.original()
    return RopeScaling(
        type="longrope",
        original_max_positions=original,
        attention_factor=r.number("attention_factor", _longrope_attention(r, original)),
        short_factors=r.factors("short_factor"),
        long_factors=r.factors("long_factor"),
    )


def _longrope_attention(r: _Rope, original: int) -> float:
    factor = r.number("factor", r.positions() / original)
    if factor <= 1:
        return 1.0
    if original == 1:
        raise r.wrong("original_max_position_embeddings", original, "more than 1 for longrope")
    return math.sqrt(1 + math.log(factor) / math.log(original))


def _llama3(r: _Rope) -> RopeScaling:
    low, high = r.number("low_freq_factor"), r.number("high_freq_factor")
    if low >= high:
        message = f"{r.f.where}: low_freq_factor {low} is not below high_freq_factor {high}"
        raise ModelFilesError("FP506", message, fix="correct either")
    return RopeScaling(
        type="llama3",
        factor=r.number("factor"),
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_positions=r.original(),
    )


_KINDS: Mapping[str, Callable[[_Rope], RopeScaling]] = {
    "linear": _linear,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "longrope": _longrope,
    "llama3": _llama3,
}
