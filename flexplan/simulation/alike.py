"""Sweeps that are alike, all known from two: the same edges, and work that grows by the same step each token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from flexplan.cost import Price, Rates
from flexplan.graph import Buffer, Sweep, Tracker, Work
from flexplan.simulation.sweeps import Lanes, SweepProgram, derive, steps_between


class Alike:
    """The sweeps of one pattern, from the first two of them."""

    def __init__(self, buffers: Mapping[str, Buffer], first: Sweep, second: Sweep) -> None:
        tracker = Tracker(buffers)
        self.first, self.second = derive(first, tracker), derive(second, tracker)
        self.holds = _works(self.first.lanes) == _works(self.second.lanes)
        """Do they do the same works task by task, as their pattern says?"""
        self.growth = steps_between(self.first.works, self.second.works) if self.holds else []

    def program(self, i: int, rates: Rates) -> SweepProgram:
        """The sweep of token i, as the first of all."""
        return SweepProgram(i, 0, self.first.lanes, self._prices(i, rates), self.first.times, ())

    def next_program(self, i: int, rates: Rates) -> SweepProgram:
        """The sweep of token i, as the one after it."""
        number = len(self.first.sweep.tasks)
        return SweepProgram(i, number, self.second.lanes, self._prices(i, rates), self.first.times, ())

    def busy_seconds(self, i: int, rates: Rates) -> dict[str, float]:
        """As `bounds.busy_seconds` of its tasks."""
        found: dict[str, float] = {}
        prices = self._prices(i, rates)
        for lane, program in self.first.lanes.items():
            for work, times in Counter(program.works).items():
                found[lane] = found.get(lane, 0.0) + times * prices[work].solo_s
                for resource, seconds in prices[work].demands:
                    if resource != lane:
                        found[resource] = found.get(resource, 0.0) + times * seconds
        return found

    def _prices(self, i: int, rates: Rates) -> list[Price]:
        later = i - self.first.sweep.i
        works = zip(self.first.works, self.growth, strict=True)
        return [rates.price(_grown(work, step, later), lane) for (work, lane), step in works]


def _works(lanes: Lanes) -> dict[str, tuple[list[int], list[int]]]:
    return {lane: (program.numbers, program.works) for lane, program in lanes.items()}


def _grown(work: Work, step: Work, times: int) -> Work:
    return Work(*(a + times * b for a, b in zip(work, step, strict=True)))
