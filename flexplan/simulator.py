"""The simulator: runs a task graph on paper, lanes in order, resources shared among the running tasks.

Running tasks share a resource max-min fairly: who wants less than an equal share gets it, the rest is
divided among the others.  So two copies of 55 GB/s through a link that moves 94 GB/s both ways get 47
each, and host attention gets what the copies leave of the host's memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from flexplan.cost import Price, Rates
from flexplan.errors import GraphError
from flexplan.graph import INLINE, KINDS, Step, Sweep, TaskGraph, Tracker
from flexplan.timeline import Span, Timeline

_DONE = 1e-9  # share of a task that rounding may leave


class _Running:
    """A task on its lane: the share of it that is left, and its speed in shares a second."""

    __slots__ = ("left", "price", "speed", "start_s", "step")

    def __init__(self, step: Step, price: Price, start_s: float) -> None:
        self.step = step
        self.price = price
        self.start_s = start_s
        self.left = 1.0
        self.speed = 0.0


def simulate_graph(
    graph: TaskGraph, rates: Rates, *, keep: bool = True, sweeps: Iterable[Sweep] | None = None
) -> Timeline:
    """The timeline of a graph; with ``keep`` False only its sums, for jobs of millions of tasks."""
    return _Simulation(graph, rates, keep, sweeps).run()


class _Simulation:
    def __init__(self, graph: TaskGraph, rates: Rates, keep: bool, sweeps: Iterable[Sweep] | None) -> None:
        self.rates = rates
        self.keep = keep
        self.tracker = Tracker(graph.buffers)
        self.source: Iterator[Sweep] = iter(graph.sweeps() if sweeps is None else sweeps)
        self.queues: dict[str, deque[Step]] = {}
        self.unfinished: set[int] = set()
        self.running: dict[str, _Running] = {}
        self.speeds: dict[tuple[int, ...], list[float]] = {}
        self.now = 0.0
        self.timeline = Timeline()
        self.in_flight: deque[int] = deque()  # last task number of each sweep that has been queued

    def run(self) -> Timeline:
        self._pull()
        self._pull()
        while self.unfinished:
            self._start_ready()
            self._advance()
        return self.timeline

    def _pull(self) -> None:
        """Queue one more sweep."""
        sweep = next(self.source, None)
        if sweep is None:
            return
        self.speeds.clear()
        for step in self.tracker.steps(sweep):
            self.queues.setdefault(step.task.lane, deque()).append(step)
            self.unfinished.add(step.number)
        self.in_flight.append(self.tracker.number - 1)

    def _start_ready(self) -> None:
        for lane, queue in self.queues.items():
            if queue and lane not in self.running and self.unfinished.isdisjoint(queue[0].after):
                step = queue.popleft()
                natural = KINDS[step.task.kind].lane if lane == INLINE and step.task.kind in KINDS else lane
                self.running[lane] = _Running(step, self.rates.price(step.task.work, natural), self.now)

    def _advance(self) -> None:
        """To the next end of a task."""
        running = list(self.running.values())
        if not running:
            stuck = "; ".join(f"{q[0].task.name} waits for task {q[0].after}" for q in self.queues.values() if q)
            raise GraphError("FP804", f"no task can run: {stuck}", fix="correct the schedule")
        key = tuple(id(r.price) for r in running)
        speeds = self.speeds.get(key)
        if speeds is None:
            speeds = self.speeds[key] = share([r.price for r in running])
        wait = min(r.left / speed for r, speed in zip(running, speeds, strict=True))
        self.now += wait
        for r, speed in zip(running, speeds, strict=True):
            r.left -= wait * speed
            if r.left <= _DONE:
                self._end(r)

    def _end(self, r: _Running) -> None:
        task = r.step.task
        del self.running[task.lane]
        self.unfinished.discard(r.step.number)
        name = task.name if self.keep else ""
        self.timeline.add(Span(name, task.lane, task.i, r.start_s, self.now), self.keep)
        busy = self.timeline.resource_busy_s
        for resource, seconds in r.price.demands:
            busy[resource] = busy.get(resource, 0.0) + seconds
        if (self.in_flight and r.step.number > self.in_flight[0]) or not self.unfinished:
            self.in_flight and self.in_flight.popleft()
            self._pull()


def share(prices: list[Price]) -> list[float]:
    """Speeds, in shares of a task a second, of tasks that run together.

    Each starts at its own speed; an overloaded resource levels its users down to equal use, none below
    what it asks for; repeated until nothing is overloaded.
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
    return speeds


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
