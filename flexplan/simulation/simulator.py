"""The simulator: runs a task graph on paper, lanes in order, resources shared among the running tasks.

Running tasks share a resource max-min fairly: who wants less than an equal share gets it, the rest is
divided among the others.  So two copies of 55 GB/s through a link that moves 94 GB/s both ways get 47
each, and host attention gets what the copies leave of the host's memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import repeat
from math import inf
from operator import truediv

from flexplan.cost import Price, Rates
from flexplan.errors import GraphError
from flexplan.graph import Span, Sweep, TaskGraph, Timeline
from flexplan.simulation.sweeps import SweepProgram, Wait, programs

_MANY = 10_000  # speeds that are remembered
Queued = tuple[SweepProgram, int, tuple[Wait, ...], int]  # number within the sweep, what it waits for, its work


def simulate_graph(
    graph: TaskGraph, rates: Rates, *, keep: bool = True, sweeps: Iterable[Sweep] | None = None
) -> Timeline:
    """The timeline of a graph; with ``keep`` False only its sums, for jobs of millions of tasks."""
    source = graph.sweeps() if sweeps is None else sweeps
    return _Simulation(programs(graph.buffers, source, rates, exact=keep), keep).run()


def simulate_programs(sweeps: Iterable[SweepProgram]) -> Timeline:
    """The sums of sweeps that are ready."""
    return _Simulation(sweeps, keep=False).run()


class _Lane:
    """One lane: its tasks to come, the one that runs since ``started_s``, and the lanes that wait for it."""

    __slots__ = ("busy_s", "ended", "name", "number", "place", "program", "queue", "started_s", "waiting")

    def __init__(self, name: str, place: int) -> None:
        self.name = name
        self.place = place
        self.queue: deque[Queued] = deque()
        self.program: SweepProgram | None = None  # of the task that runs
        self.number = 0
        self.started_s = 0.0
        self.ended = -1  # number of its last task that has ended
        self.waiting: list[_Lane] = []
        self.busy_s = 0.0


class _Simulation:
    """``prices`` and ``left`` (the share still to do) are those of the running tasks, by the place of their lane."""

    def __init__(self, source: Iterable[SweepProgram], keep: bool) -> None:
        self.source = iter(source)
        self.keep = keep
        self.timeline = Timeline()
        self.now = 0.0
        self.lanes: dict[str, _Lane] = {}
        self.by_place: list[_Lane] = []
        self.newest = -1  # number of the first task of the newest sweep
        self.prices: list[Price | None] = []
        self.left: list[float] = []
        self.speeds: dict[tuple[Price | None, ...], list[float]] = {}

    def run(self) -> Timeline:
        self._pull()
        self._pull()
        while any(self.prices):
            self._advance()
        if any(lane.queue for lane in self.by_place):
            self._refuse()
        self.timeline.end_s = self.now
        self.timeline.lane_busy_s = {lane.name: lane.busy_s for lane in self.by_place}
        return self.timeline

    def _pull(self) -> None:
        """Queue one more sweep."""
        program = next(self.source, None)
        if program is None:
            return
        self.newest = program.first
        self._count(program)
        idle = []
        for name, todo in program.lanes.items():
            lane = self.lanes.get(name) or self._open(name)
            if lane.program is None and not lane.queue:
                idle.append(lane)
            lane.queue.extend(zip(repeat(program), todo.numbers, todo.waits, todo.works, strict=False))
        for lane in idle:
            self._start(lane)

    def _open(self, name: str) -> _Lane:
        lane = self.lanes[name] = _Lane(name, len(self.by_place))
        self.by_place.append(lane)
        self.prices.append(None)
        self.left.append(inf)
        return lane

    def _count(self, program: SweepProgram) -> None:
        """What a sweep's tasks add up to; all of them will run."""
        self.timeline.num_tasks += program.num_tasks
        busy = self.timeline.resource_busy_s
        for price, times in zip(program.prices, program.times, strict=True):
            for resource, seconds in price.demands:
                busy[resource] = busy.get(resource, 0.0) + times * seconds

    def _start(self, lane: _Lane) -> None:
        """Start the next task of a free lane, if all that it waits for has ended."""
        if not lane.queue:
            return
        program, number, waits, work = lane.queue[0]
        first = program.first
        for name, behind in waits:
            other = self.lanes[name]
            if other.ended < first + behind:
                other.waiting.append(lane)
                return
        lane.queue.popleft()
        lane.program, lane.number, lane.started_s = program, first + number, self.now
        self.prices[lane.place] = program.prices[work]
        self.left[lane.place] = 1.0

    def _advance(self) -> None:
        """To the next end of a task."""
        key = tuple(self.prices)
        speeds = self.speeds.get(key)
        if speeds is None:
            if len(self.speeds) > _MANY:
                self.speeds.clear()
            speeds = self.speeds[key] = _speeds(key)
        waits = list(map(truediv, self.left, speeds))
        wait = min(waits)
        if wait > 0:  # two that end together may differ by rounding
            self.now += wait
            self.left = [left - wait * speed for left, speed in zip(self.left, speeds, strict=True)]
        self._end(self.by_place[waits.index(wait)])

    def _end(self, lane: _Lane) -> None:
        program = lane.program
        assert program is not None
        lane.program, lane.ended = None, lane.number
        lane.busy_s += self.now - lane.started_s
        self.prices[lane.place], self.left[lane.place] = None, inf
        self.timeline.sweep_end_s[program.i] = self.now
        if self.keep:
            name = program.tasks[lane.number - program.first].name
            self.timeline.spans.append(Span(name, lane.name, program.i, lane.started_s, self.now))
        self._start(lane)
        if lane.waiting:
            waiting, lane.waiting = lane.waiting, []
            for other in waiting:
                self._start(other)
        if program.first == self.newest:
            self._pull()

    def _refuse(self) -> None:
        stuck = [f"{lane.name} waits for {lane.queue[0][2]}" for lane in self.by_place if lane.queue]
        raise GraphError("FP804", f"no task can run: {'; '.join(stuck)}", fix="correct the schedule")


def _speeds(prices: tuple[Price | None, ...]) -> list[float]:
    """Speeds by place; a free lane's does not matter."""
    shared = iter(share([price for price in prices if price is not None]))
    return [1.0 if price is None else next(shared) for price in prices]


def share(prices: list[Price]) -> list[float]:
    """Speeds, in shares of a task a second, of tasks that run together.

    Each starts at its own speed; an overloaded resource levels its users down to equal use, none below
    what it asks for; repeated until nothing is overloaded.  Then each is as slow as what the others leave it makes
    it: what its fixed time leaves unused is not given back to it.
    """
    speeds = [1 / max(p.solo_s, 1e-12) for p in prices]
    users: dict[str, list[tuple[int, float]]] = {}
    for n, price in enumerate(prices):
        for resource, seconds in price.demands:
            users.setdefault(resource, []).append((n, seconds))
    shared = [use for use in users.values() if len(use) > 1]
    for _ in range(len(shared) + 1):
        changed = False
        for use in shared:
            changed |= _level(use, speeds)
        if not changed:
            break
    for use in shared:
        _beside(use, speeds, prices)
    return speeds


def _beside(use: list[tuple[int, float]], speeds: list[float], prices: list[Price]) -> None:
    """Slow down those of a resource's users that want more of it, while they use it, than the others leave."""
    used = sum(seconds * speeds[n] for n, seconds in use)
    slower = list(speeds)
    for n, seconds in use:
        fixed_s, mine = prices[n].fixed_s, seconds * speeds[n]
        if fixed_s:
            slower[n] = min(speeds[n], 1 / (fixed_s + seconds / max(1 - (used - mine), 1 / len(use))))
    speeds[:] = slower


def _level(use: list[tuple[int, float]], speeds: list[float]) -> bool:
    """Bring one resource's users down to what it can give; True if it was overloaded."""
    wants = sorted((seconds * speeds[n], n, seconds) for n, seconds in use)
    if sum(want for want, _, _ in wants) <= 1 + 1e-9:
        return False
    left, count = 1.0, len(wants)
    for want, n, seconds in wants:
        given = min(want, left / count)
        speeds[n] = given / seconds
        left -= given
        count -= 1
    return True
