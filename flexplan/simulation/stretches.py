"""Stretches: a block's passes between the moments that divide its phases, and the work that can only be done in each.

A phase ends with the last computing of its last pass.  By then weights for the next pass are under way, and the newest
keys and values are still being written.  A cut at that task ``x`` tells, whatever the order in time::

    stretch 0  =  x, and what it waits for      stretch 1  =  what waits for x      neither: may run on either side

Nor does what waits for ``x`` count where it is of a pass before it, as the last keys and values that are written: in a
timeline a pass lasts until all of it has ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from flexplan.graph import Task, TaskGraph, Tracker


@dataclass(frozen=True, slots=True)
class Stretch:
    """The tasks that no order could run outside of one phase, by the token of their pass."""

    decodes: bool
    tasks: Mapping[int, Sequence[Task]]


def stretches(graph: TaskGraph) -> list[Stretch]:
    """One for each phase of each set of micro-batches, in order."""
    tasks, owners, waits, phases = _walked(graph)
    cuts = {last: number for number, (_, last) in enumerate(phases[:-1])}  # each comes behind those before: one lane
    behind = list[int]()  # of how many cuts a task comes
    for before in waits:
        behind.append(max((behind[n] + (n in cuts) for n in before), default=0))
    ahead = [cuts.get(n, len(cuts)) for n in range(len(tasks))]  # the first cut that comes behind a task, or is it
    for n in range(len(tasks) - 1, -1, -1):
        for earlier in waits[n]:
            ahead[earlier] = min(ahead[earlier], ahead[n])
    found: list[dict[int, list[Task]]] = [{} for _ in phases]
    for task, own, least, most in zip(tasks, owners, behind, ahead, strict=True):
        if own == least == most:
            found[own].setdefault(task.i, []).append(task)
    return [Stretch(decodes, inside) for (decodes, _), inside in zip(phases, found, strict=True)]


def _walked(graph: TaskGraph) -> tuple[list[Task], list[int], list[list[int]], list[tuple[bool, int]]]:
    """All tasks, the phase of each, and those that it waits for; of each phase: does it decode, its last computing."""
    tracker, latest = Tracker(graph.buffers), dict[str, int]()
    tasks, owners, waits, phases = list[Task](), list[int](), list[list[int]](), list[tuple[bool, int]]()
    for decodes, sweeps in groupby(graph.sweeps(), key=lambda sweep: bool(sweep.i)):
        last = -1
        for task in (task for sweep in sweeps for task in sweep.tasks):
            before = [latest[task.lane]] if task.lane in latest else []
            waits.append([*before, *tracker.waits(task).values()])
            latest[task.lane] = len(tasks)
            last = len(tasks) if task.kind == "compute" else last
            tasks.append(task)
            owners.append(len(phases))
        phases.append((decodes, last))
    return tasks, owners, waits, phases
