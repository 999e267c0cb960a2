"""Sweeps that repeat the one before are proved once.

Say sweeps n-1 and n were proved, sweep n is sweep n-1 with every number grown by a step of its own, and what memory
holds grew from sweep to sweep in the same way.  Then sweep n+1, if its numbers grow by the same steps again, needs no
proof: each comparison that the proof makes is between numbers that grow evenly.  An equality that held twice holds
always.  An order (which bytes come first in a slot) is kept where what grows in a slot grows at one rate and lies
behind what does not; slots stay the same where indices grow by whole rounds.  What is expected of a task also grows
evenly, save at the prompt and the last token, where sparse attention chooses another number of values, and in rings on
disk, whose columns come round: those are proved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import sub
from typing import NamedTuple

from flexplan.graph import Buffer, Sweep
from flexplan.proof.values import Slot, Span, Value


class Form(NamedTuple):
    """A sweep taken apart: what must be equal, and the numbers, which may grow."""

    batches: tuple[int, ...]
    heads: list[tuple[str | int, ...]]
    buffers: list[str]
    numbers: list[int]

    @classmethod
    def of(cls, sweep: Sweep) -> Form:
        """The form of a sweep, work apart."""
        heads: list[tuple[str | int, ...]] = [(t[0], t[1], *t[3:6], len(t[7]), len(t[8])) for t in sweep.tasks]
        accesses = [a for t in sweep.tasks for a in t[7] + t[8]]
        numbers = [n for a in accesses for n in a[1:]]
        return cls(sweep.ks, heads, [a[0] for a in accesses], [sweep.i, *(t[2] for t in sweep.tasks), *numbers])

    def grown_from(self, other: Form) -> list[int] | None:
        """By how much every number grew; None where the forms are not alike, or a number is none."""
        if self[:3] != other[:3] or set(map(type, self.numbers)) != {int} or min(self.numbers) < 0:
            return None
        return list(map(sub, self.numbers, other.numbers))


Slots = Mapping[str, list[Slot]]


class Repeats:
    """Which sweeps repeat the ones before, and what memory holds after them."""

    def __init__(self, buffers: Mapping[str, Buffer]) -> None:
        self.buffers = buffers
        self.forget()

    def forget(self) -> None:
        """The next sweep repeats nothing."""
        self._forms: list[Form] = []
        self._states: list[dict[str, list[Slot]]] = []
        self._steps: list[int] = []  # by how much the numbers grow, once that is known to go on
        self._last: list[int] = []
        self.passed = 0  # sweeps since the last one that was proved

    def goes_on(self, form: Form) -> bool:
        """Whether a sweep is proved by those before it."""
        if not self._steps or form.grown_from(self._forms[-1]._replace(numbers=self._last)) != self._steps:
            return False
        self._last = form.numbers
        self.passed += 1
        return True

    @property
    def batches(self) -> tuple[int, ...]:
        """The micro-batches of the sweeps that repeat."""
        return self._forms[-1].batches

    def proved(self, form: Form, slots: Slots) -> None:
        """A sweep was proved, and this is what memory holds now."""
        self._steps = []
        if self._forms and form[:3] != self._forms[-1][:3]:
            self.forget()
        self._forms = [*self._forms[-1:], form]
        self._states = [*self._states[-2:], {name: [list(slot) for slot in found] for name, found in slots.items()}]
        if len(self._states) == 3:
            steps = form.grown_from(self._forms[0])
            if steps is not None and self._even(form, steps):
                self._steps, self._last = steps, form.numbers

    def _even(self, form: Form, steps: list[int]) -> bool:
        """Whether what memory holds grew evenly, in slots that stay what they are."""
        first, second, third = self._states
        grown = _growths(second, third)
        if grown is None or grown != _growths(first, second):
            return False
        ends: dict[tuple[str, int], list[tuple[int, int]]] = {}  # of a slot: (a bound of bytes, how it grows)
        for name, at, span, step in _spans_with(third, grown):
            ends.setdefault((name, at), []).extend(((span.lo, step[0]), (span.hi, step[1])))
        base = len(form.numbers) - 3 * len(form.buffers)
        for n, name in enumerate(form.buffers):
            index, lo, hi = form.numbers[base + 3 * n : base + 3 * n + 3]
            index_step, lo_step, hi_step = steps[base + 3 * n : base + 3 * n + 3]
            slots = len(self.buffers[name].offsets)
            if index_step % slots:
                return False
            ends.setdefault((name, index % slots), []).extend(((lo, lo_step), (hi, hi_step)))
        return all(map(_keeps_order, ends.values()))

    def settle(self, slots: dict[str, list[Slot]]) -> None:
        """Write into memory what the sweeps that passed without proof have left there."""
        if self.passed:
            grown = _growths(self._states[-2], self._states[-1])
            assert grown is not None, "only even growth passes"
            for found in slots.values():
                found[:] = [[] for _ in found]
            for name, at, span, step in _spans_with(self._states[-1], grown):
                slots[name][at].append(_later(span, step, self.passed))
        self.forget()


def _numbers(span: Span) -> list[int]:
    return [span.lo, span.hi, span.shift, *span.value[1:]]


def _later(span: Span, step: list[int], times: int) -> Span:
    """The span after so many sweeps."""
    lo, hi, shift, *indices = (n + times * more for n, more in zip(_numbers(span), step, strict=True))
    return Span(lo, hi, Value(span.value.what, *indices), shift)


def _growths(before: Slots, after: Slots) -> list[list[int]] | None:
    """By how much every number of every span grew; None where spans came or went."""
    grown = []
    for name, slots in after.items():
        for old, new in zip(before[name], slots, strict=True):
            if [span.value.what for span in old] != [span.value.what for span in new]:
                return None
            grown += [list(map(sub, _numbers(b), _numbers(a))) for a, b in zip(old, new, strict=True)]
    return grown


def _spans_with(state: Slots, grown: Iterable[list[int]]) -> Iterator[tuple[str, int, Span, list[int]]]:
    """(buffer, slot, span, growth) of everything that memory holds."""
    steps = iter(grown)
    for name, slots in state.items():
        for at, slot in enumerate(slots):
            for span in slot:
                yield name, at, span, next(steps)


def _keeps_order(ends: list[tuple[int, int]]) -> bool:
    """Whether bounds of bytes keep the order that they had two sweeps ago, however long they grow."""
    rates = {step for _, step in ends if step}
    if not rates:
        return True
    fixed = max((at for at, step in ends if not step), default=0)
    return len(rates) == 1 and min(rates) > 0 and min(at - 2 * step for at, step in ends if step) >= fixed
