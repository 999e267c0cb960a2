"""Graphs of other packages' schedules, bounded: so many passes and tasks, and none that is not well-formed.

What is proved here is only that a graph can be looked at: the checker says whether it is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from itertools import chain
from typing import Any, ParamSpec, TypeVar

from flexplan.errors import FlexplanError, PluginError
from flexplan.graph import KINDS, LANES, Access, Buffer, Finished, Sweep, Task, TaskGraph, Work, tier_of
from flexplan.graph.graph import never
from flexplan.limits import MOST_BYTES, MOST_TEXT
from flexplan.model import schedule_layers
from flexplan.policy import Policy, fill_blocks
from flexplan.problem import Problem
from flexplan.sandbox.allowance import REPORT

_EACH = 64  # tasks a layer and micro-batch: the built-in schedules have 13 at most
_MOST_INDEX = 1 << 62
_MOST_ACCESSES = 256  # of a task
_MOST_WORK = 1e30  # of one resource

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large a graph may be."""

    name: str  # of its schedule
    batches: int
    sweeps: int
    tasks: int  # of a sweep

    @classmethod
    def of(cls, name: str, problem: Problem, policy: Policy) -> Bounds:
        """A pass a token and micro-batch at most, and in it so many tasks a layer and micro-batch."""
        block = next(fill_blocks(problem.workload, policy))
        batches, layers = len(block.batches), len(schedule_layers(problem.model, policy.sep_layer))
        return cls(name, batches, block.gen_len * batches, _EACH * layers * batches)

    def applied(self, graph: Any) -> TaskGraph:
        """The same graph, or PluginError; its passes and tasks raise it when they are asked for."""
        if not isinstance(graph, TaskGraph):
            raise self.refused(f"{type(graph).__name__} is no TaskGraph")
        try:
            self._refuse_malformed_head(graph)
        except FlexplanError:
            raise
        except Exception as error:  # its fields may be anything
            raise self.refused(f"its head is not well-formed: {error!r:.200}") from error
        return TaskGraph(graph.schedule, graph.live, graph.buffers, lambda finished: self._sweeps(graph, finished))

    def refused(self, why: str) -> PluginError:
        """The error for a graph that is none."""
        return PluginError("FP909", f"schedule {self.name} made a graph that is none: {why}", fix=REPORT)

    def _refuse_malformed_head(self, graph: TaskGraph) -> None:
        if not isinstance(graph.schedule, str) or len(graph.schedule) > MOST_TEXT:
            raise self.refused("it has no name")
        if type(graph.live) is not int or not 1 <= graph.live <= self.batches:
            raise self.refused(f"live is {graph.live!r:.40}, its block has {self.batches} micro-batches")
        for key, buffer in graph.buffers.items():
            why = _wrong_with_buffer(key, buffer, self.tasks)
            if why:
                raise self.refused(f"buffer {key!r:.80} {why}")

    def _sweeps(self, graph: TaskGraph, finished: Finished) -> Iterator[Sweep]:
        number = 0
        for number, sweep in enumerate(self._steps(lambda: graph.sweeps(finished)), 1):
            if number > self.sweeps:
                raise self.refused(f"more than {self.sweeps} passes: one a token and micro-batch is enough")
            why = _wrong_with_sweep(sweep)
            if why:
                raise self.refused(f"a pass {why}")
            yield Sweep(sweep.i, tuple(sweep.ks), self._tasks(graph.buffers, sweep), sweep.pattern)
        if not number and finished is never:
            raise self.refused("it has no passes")

    def _tasks(self, buffers: Mapping[str, Buffer], sweep: Sweep) -> Iterator[Task]:
        for number, task in enumerate(self._steps(lambda: unmade(sweep)), 1):
            if number > self.tasks:
                raise self.refused(f"more than {self.tasks} tasks in a pass, which are {_EACH} a layer and micro-batch")
            why = _wrong_with_task(task, buffers)
            if why:
                raise self.refused(f"{_spelled(task)} {why}")
            yield task

    def _steps(self, source: Callable[[], Iterable[T]]) -> Iterator[T]:
        """What a stranger's iterator gives; what it raises is its failure."""
        try:
            yield from source()
        except (FlexplanError, GeneratorExit):
            raise
        except (Exception, SystemExit) as error:
            raise failed(self.name, f"{error!r:.500}") from error


def failed(name: str, why: str) -> PluginError:
    """The error for a schedule that broke down."""
    return PluginError("FP907", f"schedule {name} failed: {why}", fix=REPORT)


def _spelled(task: Any) -> str:
    """A task as far as it can be written down."""
    try:
        return f"the task {task!s:.200}"
    except Exception:  # it may be made of anything
        return "a task that cannot be written down"


def unmade(sweep: Sweep) -> Iterable[Task]:
    """The tasks of a pass one by one, where they are not made yet: they may be endless."""
    made = type(sweep) is not Sweep or sweep._tasks is not None
    return sweep.tasks if made else sweep._source


P = ParamSpec("P")


def _judged(check: Callable[P, str]) -> Callable[P, str]:
    """What is not even made of what it should be is wrong, too."""

    @wraps(check)
    def judged(*args: P.args, **kwargs: P.kwargs) -> str:
        try:
            return check(*args, **kwargs)
        except (TypeError, ValueError, AttributeError, LookupError) as error:
            return f"is not well-formed: {error!r:.200}"

    return judged


@_judged
def _wrong_with_sweep(sweep: Sweep) -> str:
    """What is wrong with a pass, its tasks apart, or nothing."""
    if type(sweep) is not Sweep:
        return f"is {sweep!r:.80}, must be a Sweep"
    if not type(sweep.i) is type(sum(sweep.ks)) is int:
        return f"has the token {sweep.i!r:.80} or the micro-batches {sweep.ks!r:.80}"
    hash(sweep.pattern)
    return ""


@_judged
def _wrong_with_buffer(key: str, buffer: Buffer, most_slots: int) -> str:
    """What is wrong with it, or nothing."""
    if buffer.name != key:
        return f"is called {buffer.name!r:.80}"
    try:
        tier_of(buffer.arena)
    except (KeyError, AttributeError):
        return f"lies in {buffer.arena!r:.80}, which is no arena"
    if not 1 <= len(buffer.offsets) == len(buffer.sizes) <= most_slots:
        return f"has {len(buffer.offsets)} offsets and {len(buffer.sizes)} sizes, up to {most_slots} of each"
    if not all(0 <= number <= MOST_BYTES for number in chain(buffer.offsets, buffer.sizes)):
        return "has offsets or sizes that no memory has"
    return ""


@_judged
def _wrong_with_task(task: Task, buffers: Mapping[str, Buffer]) -> str:
    """What is wrong with a task, or nothing."""
    kind, lane, i, j, k, part, work, reads, writes = task
    if type(task) is not Task or not type(kind) is type(lane) is str or not type(reads) is type(writes) is tuple:
        return "is not a Task of text, numbers and tuples of accesses"
    if type(work) is not Work or len(work) != len(Work._fields):
        return "has no Work"
    if kind not in KINDS or lane not in LANES:
        return "is of a kind or lane that nobody knows"
    if not type(i) is type(j) is type(k) is type(part) is int:
        return "has an index that is no whole number"
    if not (0 <= i < _MOST_INDEX and 0 <= j < _MOST_INDEX and 0 <= k < _MOST_INDEX and 0 <= part < _MOST_INDEX):
        return "has an index that is none"
    for amount in work:
        if not 0 <= amount < _MOST_WORK:
            return "has work that is none"
    if len(reads) + len(writes) > _MOST_ACCESSES:
        return f"has more than {_MOST_ACCESSES} accesses"
    for access in chain(reads, writes):
        name, index, lo, hi = access
        if type(access) is not Access or type(name) is not str:
            return "has an access that is none"
        buffer = buffers.get(name)
        if not type(index) is type(lo) is type(hi) is int:
            return f"goes to {str(access)[:80]}, which are no whole numbers"
        if buffer is None or not 0 <= index < _MOST_INDEX:
            return f"goes to {str(access)[:80]}, which is no slot of a buffer"
        if not 0 <= lo <= hi <= buffer.sizes[index % len(buffer.sizes)]:
            return f"goes to {str(access)[:80]}, which is outside its slot"
    return ""
