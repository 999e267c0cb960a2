"""Values: the names of what bytes hold, and a memory that holds names instead of numbers.

A value is an array of bytes with a name: the hidden states of token i after layer j of micro-batch k, or the new
tokens of micro-batch k, one behind the other.  A span says of bytes of a slot which bytes of which value they hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from flexplan.graph import Access, Buffer


class Value(NamedTuple):
    """What is meant: of which token i, layer j (or transformer layer) and micro-batch k; -1 where it has none."""

    what: str
    i: int = -1
    j: int = -1
    k: int = -1

    def __str__(self) -> str:
        indices = (f"{name}={n}" for name, n in zip("ijk", self[1:], strict=True) if n >= 0)
        return f"{self.what}({' '.join(indices)})"


class Span(NamedTuple):
    """Bytes ``lo .. hi`` of a slot hold the bytes ``lo + shift .. hi + shift`` of a value."""

    lo: int
    hi: int
    value: Value
    shift: int = 0

    def __str__(self) -> str:
        return f"{self.value}:{self.lo + self.shift}-{self.hi + self.shift}"


Slot = list[Span]  # in order and disjoint; neighbours that are one are one span


class NamedMemory:
    """Of every slot of every buffer, which values its bytes hold; unknown bytes are in no span."""

    def __init__(self, buffers: Mapping[str, Buffer]) -> None:
        self.slots: dict[str, list[Slot]] = {name: [[] for _ in b.offsets] for name, b in buffers.items()}

    def slot(self, access: Access) -> Slot:
        """The slot of an access."""
        slots = self.slots[access.buffer]
        return slots[access.index % len(slots)]

    def lack(self, access: Access, asked: Span) -> Span | None:
        """The first bytes, as they are, that do not hold what is asked; a span of `NOBODY` where they hold nothing."""
        at = asked.lo
        for span in self.slot(access):
            if span.hi <= at:
                continue
            if span.lo > at or at >= asked.hi:
                break
            if span.value != asked.value or span.shift != asked.shift:
                return Span(at, min(span.hi, asked.hi), span.value, span.shift)
            at = span.hi
        return None if at >= asked.hi else Span(at, asked.hi, NOBODY)

    def put(self, access: Access, spans: Iterable[Span]) -> None:
        """Bytes hold from now on what the spans say."""
        slot = self.slot(access)
        for new in spans:
            if len(slot) == 1 and slot[0].lo >= new.lo and slot[0].hi <= new.hi:
                slot[0] = new
            else:
                slot[:] = _joined(_replaced(slot, new))


NOBODY = Value("nothing")


def _replaced(slot: Slot, new: Span) -> Slot:
    """The slot with new bytes in it."""
    before = [s if s.hi <= new.lo else s._replace(hi=new.lo) for s in slot if s.lo < new.lo]
    after = [s if s.lo >= new.hi else s._replace(lo=new.hi) for s in slot if s.hi > new.hi]
    return [*before, new, *after]


def _joined(slot: Slot) -> Slot:
    """Neighbours that hold consecutive bytes of one value are one span, or appending would never end."""
    found = slot[:1]
    for span in slot[1:]:
        last = found[-1]
        if (last.hi, last.value, last.shift) == (span.lo, span.value, span.shift):
            found[-1] = last._replace(hi=span.hi)
        else:
            found.append(span)
    return found
