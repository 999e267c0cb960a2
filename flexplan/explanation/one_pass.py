"""One pass over the layers, lane by lane: what runs when, and what a lane waits for while nothing runs on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from flexplan.cost import Rates
from flexplan.graph import Span, Sweep, Task, TaskGraph, Tracker
from flexplan.plan import Plan
from flexplan.sandbox import blame_of, schedule_of
from flexplan.simulation import simulate_graph

_BLINK = 1e-6  # of the pass: rounding, no gap


class Gap(NamedTuple):
    """An idle lane: ``waits_for`` is the lane that works meanwhile on what is waited for, "" where none does.

    The whole way back: a lane that waits for a copy of what the host is still computing waits for the host.
    """

    lane: str
    start_s: float
    end_s: float
    waits_for: str


class Surroundings(NamedTuple):
    """A sweep with the one before and the one behind it, and the tasks of other lanes that each task waits for."""

    before: Sweep | None
    sweep: Sweep
    behind: Sweep | None
    tasks: Mapping[str, Task]
    after: Mapping[str, Sequence[str]]

    @property
    def sweeps(self) -> list[Sweep]:
        """In order."""
        return [sweep for sweep in (self.before, self.sweep, self.behind) if sweep]


@dataclass(frozen=True)
class OnePass:
    """All that runs from the end of the sweep before to the end of this one; seconds from there.

    All its own spans are there, also what was done before 0; of the neighbouring sweeps what runs meanwhile: lanes work
    ahead.
    """

    i: int
    took_s: float
    spans: tuple[Span, ...]
    gaps: tuple[Gap, ...]

    def idle_s(self) -> dict[str, dict[str, float]]:
        """Idle seconds by lane and by the lane that is waited for."""
        found: dict[str, dict[str, float]] = {}
        for gap in self.gaps:
            causes = found.setdefault(gap.lane, {})
            causes[gap.waits_for] = causes.get(gap.waits_for, 0.0) + gap.end_s - gap.start_s
        return found


def surroundings(plan: Plan, i: int) -> Surroundings | None:
    """The first sweep of token ``i`` in the plan's first block, and what lies around it; None where there is none."""
    schedule = schedule_of(plan.schedule)
    with blame_of(schedule):
        return around(schedule.build(plan.problem, plan.policy), i)


def around(graph: TaskGraph, i: int) -> Surroundings | None:
    """The same of a graph."""
    before: Sweep | None = None
    sweeps = iter(graph.sweeps())
    for sweep in sweeps:
        if sweep.i == i:
            break
        before = sweep
    else:
        return None
    behind = next(sweeps, None)
    tracker, tasks, after, names = Tracker(graph.buffers), dict[str, Task](), dict[str, list[str]](), list[str]()
    for node in (node for one in (before, sweep, behind) if one for node in tracker.nodes(one)):
        name = node.task.name
        tasks[name], after[name] = node.task, [names[n] for n in node.after]
        names.append(name)
    return Surroundings(before, sweep, behind, tasks, after)


def predicted_spans(plan: Plan, around: Surroundings) -> list[Span]:
    """When the tasks of these sweeps run on paper."""
    schedule = schedule_of(plan.schedule)
    with blame_of(schedule):
        graph = schedule.build(plan.problem, plan.policy)
        return simulate_graph(graph, Rates(plan.problem.hardware), sweeps=around.sweeps).spans


def view(around: Surroundings, spans: Iterable[Span]) -> OnePass | None:
    """The pass as these spans show it, predicted or measured; None where they lack it."""
    known = {span.name: span for span in spans if span.name in around.tasks}
    own = {task.name for task in around.sweep.tasks}
    if not own <= known.keys():
        return None
    earlier = [known[task.name].end_s for task in around.before.tasks if task.name in known] if around.before else []
    start_s, end_s = (
        max(earlier, default=min(span.start_s for span in known.values())),
        max(known[name].end_s for name in own),
    )
    gaps = [
        gap._replace(start_s=max(gap.start_s, start_s) - start_s, end_s=min(gap.end_s, end_s) - start_s)
        for gap in _Waiting(around, known).gaps(start_s, end_s)
    ]
    shown = [
        span._replace(start_s=span.start_s - start_s, end_s=span.end_s - start_s)
        for span in known.values()
        if span.name in own or (span.end_s > start_s and span.start_s < end_s)
    ]
    least_s = _BLINK * (end_s - start_s)
    long = tuple(gap for gap in gaps if gap.end_s - gap.start_s > least_s)
    return OnePass(around.sweep.i, end_s - start_s, tuple(shown), long)


def latest(predicted: OnePass, measured: OnePass, count: int = 5) -> list[str]:
    """The names of a pass's own tasks that took longest beyond what is predicted of them, the worst first."""
    promised = {span.name: span.end_s - span.start_s for span in predicted.spans}
    late_s = {
        span.name: span.end_s - span.start_s - promised[span.name]
        for span in measured.spans
        if span.i == measured.i and span.name in promised
    }
    return sorted(late_s, key=lambda name: -late_s[name])[:count]


class _Waiting:
    """Who holds whom back: walked from the task that a lane begins next back in time, as far as the lane is idle."""

    def __init__(self, around: Surroundings, known: Mapping[str, Span]) -> None:
        self.around = around
        self.known = known
        self.lanes: dict[str, list[Span]] = {}
        for span in sorted(known.values(), key=lambda span: (span.start_s, span.end_s)):
            self.lanes.setdefault(span.lane, []).append(span)
        self.last = {b.name: a for own in self.lanes.values() for a, b in pairwise(own)}

    def gaps(self, start_s: float, end_s: float) -> Iterator[Gap]:
        """Of all lanes, between these two moments."""
        for lane, own in self.lanes.items():
            for span in own:
                last = self.last.get(span.name)
                idle_s = max(start_s, last.end_s if last else start_s)
                if idle_s < span.start_s and idle_s < end_s:
                    yield from _merged(lane, self._causes(span, idle_s))

    def _causes(self, span: Span, since_s: float) -> list[tuple[float, float, str]]:
        """What runs while a task waits, the latest first: (from, to, lane), "" where nothing does."""
        found: list[tuple[float, float, str]] = []
        until_s, at = span.start_s, span
        while until_s > since_s:
            holder = self._holder(at)
            ended_s = min(until_s, max(since_s, holder.end_s if holder else since_s))
            found.append((ended_s, until_s, ""))
            if holder is None:
                break
            until_s, at = max(since_s, min(ended_s, holder.start_s)), holder
            found.append((until_s, ended_s, holder.lane))
        return found

    def _holder(self, span: Span) -> Span | None:
        """The task that ended last of those that this one comes after, on its own lane or another."""
        before = [self.known[name] for name in self.around.after.get(span.name, ()) if name in self.known]
        last = self.last.get(span.name)
        return max([*before, *([last] if last else [])], key=lambda one: one.end_s, default=None)


def _merged(lane: str, causes: Sequence[tuple[float, float, str]]) -> Iterator[Gap]:
    """In order of time, neighbours of one cause as one."""
    gap: Gap | None = None
    for start_s, end_s, cause in reversed(causes):
        if end_s <= start_s:
            continue
        if gap and gap.waits_for == cause:
            gap = gap._replace(end_s=end_s)
            continue
        if gap:
            yield gap
        gap = Gap(lane, start_s, end_s, cause)
    if gap:
        yield gap
