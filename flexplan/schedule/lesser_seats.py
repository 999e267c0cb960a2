"""Seats without one of the things that make a schedule roll: what each is worth is the difference it makes on paper."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from heapq import heapify

from flexplan.schedule.seats import Boarding, Guest, Seats


@dataclass
class NotRefilled(Seats):
    """Nobody takes the seat of who has left before all have: a block waits for its longest answer."""

    _left: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._left = [[] for _ in self._free]

    def _clear(self, k: int, number: int, guest: Guest, *, ended: bool = False) -> None:
        before = len(self._free[k])
        super()._clear(k, number, guest, ended=ended)
        if len(self._free[k]) > before:
            self._free[k].remove(guest.row)
            heapify(self._free[k])
            self._left[k].append(guest.row)

    def _come(self, number: int) -> Iterator[tuple[int, tuple[Guest, ...]]]:
        if not any(self._guests):
            self._free = [sorted(free + left) for free, left in zip(self._free, self._left, strict=True)]
            self._left = [[] for _ in self._free]
        return super()._come(number)


@dataclass
class Gathered(Seats):
    """Newcomers come only in each ``every``-th pass, or when nobody is left."""

    every: int = 1

    def _come(self, number: int) -> Iterator[tuple[int, tuple[Guest, ...]]]:
        return iter(()) if number % self.every and any(self._guests) else super()._come(number)


def prompts_apart(boardings: Iterable[Boarding]) -> Iterator[Boarding]:
    """The same with prompts in passes of their own."""
    number = 0
    for one in boardings:
        halves = [one]
        if one.guests and one.newcomers:
            halves = [replace(one, guests={}, contexts={}, last=False, moves=()), replace(one, newcomers={}, moves=())]
        for half in halves:
            yield replace(half, number=number)
            number += 1
