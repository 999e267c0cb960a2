"""Views: the declared bytes of a task.

A handler is given a ``Views`` of its task and nothing else of memory: bytes that the task does not declare
cannot be reached.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from flexplan.errors import GraphError
from flexplan.graph.graph import Access, Task
from flexplan_runtime.execute.block import Job


class Views:
    """The declared bytes of one task."""

    def __init__(self, job: Job, task: Task) -> None:
        self.job = job
        self.task = task

    def read(self, buffer: str) -> Tensor | None:
        """Bytes that the task reads of a buffer, None where it reads none."""
        return self._bytes(self.task.reads, buffer)

    def write(self, buffer: str) -> Tensor | None:
        """Bytes that the task writes."""
        return self._bytes(self.task.writes, buffer)

    def slot(self, buffer: str) -> Tensor:
        """All bytes of a slot that the task reads or writes, as one range."""
        found = [a for a in (*self.task.reads, *self.task.writes) if a.buffer.startswith(buffer)]
        if not found:
            raise GraphError("FP806", f"{self.task.name} declares no {buffer}", fix="correct the schedule")
        lo, hi = min(a.lo for a in found), max(a.hi for a in found)
        return self.job.arena_bytes(found[0]._replace(lo=lo, hi=hi))

    def _bytes(self, accesses: tuple[Access, ...], buffer: str) -> Tensor | None:
        found = next((a for a in accesses if a.buffer == buffer), None)
        return None if found is None else self.job.arena_bytes(found)


Handler = Callable[[Job, Task, Views], None]
