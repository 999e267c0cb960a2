"""Tracker: the edges that follow from what tasks read and write.

Executed one after the other in the order of the graph, every read sees the last write before it.  The
edges keep it so when lanes run side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flexplan.errors import GraphError
from flexplan.tasks import Access, Buffer, Step, Sweep, Task


class _Record:
    """The last write of some bytes of a slot, and the reads since, the last of each lane."""

    __slots__ = ("lane", "readers", "writer")

    def __init__(self, writer: int, lane: str) -> None:
        self.writer = writer
        self.lane = lane
        self.readers: dict[str, int] = {}


class Tracker:
    """Derives edges from accesses, sweep after sweep: read after write, write after read, write after write."""

    def __init__(self, buffers: Mapping[str, Buffer]) -> None:
        self.buffers = buffers
        self.num_slots = {name: len(b.offsets) for name, b in buffers.items()}
        self.slots: dict[tuple[str, int], dict[tuple[int, int], _Record]] = {}
        self.number = 0

    def steps(self, sweep: Sweep) -> Iterator[Step]:
        """The sweep's tasks with their edges; call it for one sweep after the other."""
        for task in sweep.tasks:
            after = self._edges(task)
            yield Step(self.number, task, after)
            self.number += 1

    def _edges(self, task: Task) -> tuple[int, ...]:
        last: dict[str, int] = {}  # lane -> the latest task to wait for; lane order covers the earlier ones
        for access in task.reads:
            self._read(access, task.lane, last)
        for access in task.writes:
            self._write(access, task.lane, last)
        last.pop(task.lane, None)
        return tuple(sorted(last.values()))

    def _slot(self, access: Access) -> dict[tuple[int, int], _Record]:
        try:
            key = (access.buffer, access.index % self.num_slots[access.buffer])
        except KeyError:
            raise GraphError("FP803", f"{access} names no buffer of the graph", fix="correct the schedule") from None
        found = self.slots.get(key)
        if found is None:
            found = self.slots[key] = {}
        return found

    def _read(self, access: Access, lane: str, last: dict[str, int]) -> None:
        slot, span = self._slot(access), (access.lo, access.hi)
        for (lo, hi), record in slot.items():
            if lo < access.hi and access.lo < hi and record.writer > last.get(record.lane, -1):
                last[record.lane] = record.writer
        own = slot.setdefault(span, _Record(-1, ""))
        own.readers[lane] = self.number

    def _write(self, access: Access, lane: str, last: dict[str, int]) -> None:
        slot, dead = self._slot(access), []
        for span, record in slot.items():
            lo, hi = span
            if not (lo < access.hi and access.lo < hi):
                continue
            if record.writer > last.get(record.lane, -1):
                last[record.lane] = record.writer
            for reader, number in record.readers.items():
                if number > last.get(reader, -1) and number != self.number:
                    last[reader] = number
            if access.lo <= lo and hi <= access.hi:
                dead.append(span)
        for span in dead:
            del slot[span]
        slot[access.lo, access.hi] = _Record(self.number, lane)
