"""Programs: sweeps made ready for the simulator; of a long run of one pattern only the first few are derived.

From then on a program repeats: same lanes, same edges relative to its first task, and work that grows by
the same step.  That is checked, not believed, on the sweeps that are derived.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import sub

from flexplan.cost import Price, Rates
from flexplan.graph import Buffer, Sweep, Task, Tracker, Work, natural_lane

Wait = tuple[str, int]  # a lane, and the number on it that must have ended, counted from the sweep's first task


@dataclass(slots=True)
class LaneProgram:
    """The tasks of one lane: their numbers within the sweep, what they wait for, and which work they are."""

    numbers: list[int]
    waits: list[tuple[Wait, ...]]
    works: list[int]


Lanes = dict[str, LaneProgram]
LaneWork = tuple[Work, str]


class SweepProgram:
    """A sweep: ``first`` is the number of its first task; each work has a price and occurs some ``times``."""

    __slots__ = ("first", "i", "lanes", "prices", "tasks", "times")

    def __init__(
        self, i: int, first: int, lanes: Lanes, prices: list[Price], times: list[int], tasks: Sequence[Task]
    ) -> None:
        self.i = i
        self.first = first
        self.lanes = lanes
        self.prices = prices
        self.times = times
        self.tasks = tasks  # empty where the sweep was not derived

    @property
    def num_tasks(self) -> int:
        return sum(self.times)


@dataclass(slots=True)
class Derived:
    """A sweep whose edges were derived."""

    sweep: Sweep
    lanes: Lanes
    works: list[LaneWork]
    times: list[int]


def programs(
    buffers: Mapping[str, Buffer], sweeps: Iterable[Sweep], rates: Rates, *, exact: bool = False
) -> Iterator[SweepProgram]:
    """A program a sweep; ``exact`` derives them all and keeps their tasks."""
    return _Programs(buffers, rates, exact).of(sweeps)


class _Programs:
    def __init__(self, buffers: Mapping[str, Buffer], rates: Rates, exact: bool) -> None:
        self.buffers = buffers
        self.rates = rates
        self.exact = exact
        self.tracker = Tracker(buffers)
        self.run: list[Derived] = []  # the last sweeps of one pattern, at most three
        self.length = 0  # sweeps of the pattern that were derived
        self.turns = 0  # sweeps in which every ring has come round
        self.growth: list[Work] | None = None  # known when the pattern repeats
        self.skipped: deque[tuple[int, Sweep]] = deque()

    def of(self, sweeps: Iterable[Sweep]) -> Iterator[SweepProgram]:
        for sweep in sweeps:
            if not self.run or sweep.pattern != self.run[0].sweep.pattern or sweep.pattern is None:
                self._end_run()
            yield self._derive(sweep) if self.growth is None else self._repeat(sweep, self.growth)

    def _derive(self, sweep: Sweep) -> SweepProgram:
        first = self.tracker.number
        derived = derive(sweep, self.tracker)
        if sweep.pattern is not None and not self.exact:
            self.run = [*self.run[-2:], derived]
            self.length += 1
            self.growth = self._growth()
        return self._program(sweep, first, derived, sweep.tasks if self.exact else ())

    def _program(self, sweep: Sweep, first: int, like: Derived, tasks: Sequence[Task] = ()) -> SweepProgram:
        prices = [self.rates.price(*work) for work in like.works]
        return SweepProgram(sweep.i, first, like.lanes, prices, like.times, tasks)

    def _repeat(self, sweep: Sweep, growth: list[Work]) -> SweepProgram:
        last, number = self.run[-1], self.tracker.number
        last.works = [(work.plus(step), lane) for (work, lane), step in zip(last.works, growth, strict=True)]
        self.skipped.append((number, sweep))
        if len(self.skipped) > self.turns:
            self.skipped.popleft()
        self.tracker.number += len(last.sweep.tasks)
        return self._program(sweep, number, last)

    def _end_run(self) -> None:
        """Bring the tracker up to date: it needs to see every ring come round once."""
        for number, sweep in self.skipped:
            self.tracker.number = number
            for task in sweep.tasks:
                self.tracker.waits(task)
        self.skipped.clear()
        self.run, self.length, self.growth = [], 0, None

    def _growth(self) -> list[Work] | None:
        """The step by which each work grows, once three sweeps agree on it and every ring has come round."""
        if len(self.run) < 3:
            return None
        one, two, three = self.run
        if not self.turns or self.length == 3:
            self.turns = _turns(self.buffers, two.sweep.tasks, three.sweep.tasks)
        if self.length < self.turns + 2 or not one.lanes == two.lanes == three.lanes:
            return None
        growth = steps_between(two.works, three.works)
        return growth if growth == steps_between(one.works, two.works) else None


def derive(sweep: Sweep, tracker: Tracker) -> Derived:
    """The sweep after those that the tracker has seen."""
    lanes: Lanes = {}
    works: dict[LaneWork, int] = {}
    first = tracker.number
    for number, task in enumerate(sweep.tasks):
        lane = lanes.get(task.lane)
        if lane is None:
            lane = lanes[task.lane] = LaneProgram([], [], [])
        lane.numbers.append(number)
        lane.waits.append(tuple([(other, n - first) for other, n in tracker.waits(task).items()]))
        lane.works.append(works.setdefault((task.work, natural_lane(task)), len(works)))
    times = Counter(work for lane in lanes.values() for work in lane.works)
    return Derived(sweep, lanes, list(works), [times[work] for work in range(len(works))])


def steps_between(one: list[LaneWork], two: list[LaneWork]) -> list[Work]:
    """By how much each work grows."""
    return [Work(*map(sub, later, earlier)) for (earlier, _), (later, _) in zip(one, two, strict=True)]


def _turns(buffers: Mapping[str, Buffer], one: Sequence[Task], two: Sequence[Task]) -> int:
    """Sweeps until every ring has come round: edges reach back no further."""
    turns = 1
    for before, after in zip(one, two, strict=False):
        for a, b in zip(before.reads + before.writes, after.reads + after.writes, strict=False):
            if b.index != a.index:
                turns = max(turns, len(buffers[b.buffer].offsets) // abs(b.index - a.index) + 1)
    return turns
