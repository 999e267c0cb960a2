"""Parts: ranges of bytes that a task declares, with the values that must be there, or will be."""

from __future__ import annotations

from typing import NamedTuple

from flexplan.graph import Access
from flexplan.placement import ID_BYTES, Placement
from flexplan.proof.values import Span, Value


class Part(NamedTuple):
    """Bytes ``lo .. hi`` of a buffer; ``index`` None is any: a ring's, which the schedule chooses."""

    buffer: str
    index: int | None  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    lo: int
    hi: int
    spans: tuple[Span, ...]
    before: tuple[Span, ...] = ()  # what has to be there when it is written, as it is written in part

    def __str__(self) -> str:
        return f"{self.buffer}[{'any' if self.index is None else self.index}]:{self.lo}-{self.hi}"


Parts = tuple[Part, ...]


class Meaning(NamedTuple):
    """Of one task, in the order in which it declares them."""

    reads: Parts
    writes: Parts


class Unmeant(Exception):
    """No task of this kind is asked for at this place; the argument says why."""


def part(
    buffer: str, index: int | None, lo: int, hi: int, value: Value, shift: int = 0, before: Value | None = None
) -> Parts:
    """Bytes of one value, if there are any; ``before``, the value that they hold until then."""
    if hi <= lo:
        return ()
    old = () if before is None else (Span(lo, hi, before, shift),)
    return (Part(buffer, index, lo, hi, (Span(lo, hi, value, shift),), old),)


def matches(access: Access, asked: Part) -> bool:
    """Whether a task declares the very bytes that its meaning asks for."""
    return (
        access.buffer == asked.buffer
        and access.lo == asked.lo
        and access.hi == asked.hi
        and (asked.index is None or access.index == asked.index)
    )


def require(holds: bool, why: str) -> None:
    """Raise Unmeant, with why, where something does not hold."""
    if not holds:
        raise Unmeant(why)


class About:
    """What the meanings of a placement's tasks are read from."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.layers = placement.layers
        self.last = placement.block.gen_len - 1
        self.element = placement.shape.bytes_per_element

    def row_bytes(self, k: int) -> int:
        """Of one token of every row of micro-batch k."""
        return self.placement.rows(k) * ID_BYTES
