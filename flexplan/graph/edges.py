"""Tracker: the edges that follow from what tasks read and write.

Executed one after the other in the order of the graph, every read sees the last write before it.  The
edges keep it so when lanes run side by side.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping

from flexplan.errors import GraphError
from flexplan.graph.tasks import Buffer, Node, Sweep, Task

Waits = dict[str, int]  # lane -> the latest task on it to wait for; lane order covers the earlier ones


class _Record:
    """Bytes ``lo .. hi`` of a slot: on each lane their last writer, and their last reader since.

    Who waits for a reader need not wait for the writers: the reader did.
    """

    __slots__ = ("hi", "lo", "readers", "writers")

    def __init__(self, lo: int, hi: int, writers: Waits, readers: Waits) -> None:
        self.lo = lo
        self.hi = hi
        self.writers = writers
        self.readers = readers


class _Slot:
    """The records of a slot, in order and disjoint."""

    __slots__ = ("records", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.records: list[_Record] = []

    def overlapping(self, lo: int, hi: int) -> tuple[int, int]:
        """Places of the first record that shares bytes with ``lo .. hi``, and past the last."""
        first = bisect_right(self.starts, lo)
        if first and self.records[first - 1].hi > lo:
            first -= 1
        last = first
        while last < len(self.starts) and self.starts[last] < hi:
            last += 1
        return first, last

    def put(self, first: int, last: int, records: list[_Record]) -> None:
        """Replace the records ``first .. last``."""
        self.records[first:last] = records
        self.starts[first:last] = [record.lo for record in records]

    def read(self, lo: int, hi: int) -> _Record:
        """The one record of these bytes, or of more; what was in several pieces becomes one."""
        if len(self.records) == 1 and self.records[0].lo <= lo and hi <= self.records[0].hi:
            return self.records[0]
        first, last = self.overlapping(lo, hi)
        if last == first + 1:
            record = self.records[first]
            if record.lo <= lo and hi <= record.hi:
                return record
        found = self.records[first:last]
        writers, readers = _latest(r.writers for r in found), _latest(r.readers for r in found)
        whole = _Record(min([lo, *(r.lo for r in found)]), max([hi, *(r.hi for r in found)]), writers, readers)
        self.put(first, last, [whole])
        return whole

    def write(self, lo: int, hi: int, writers: Waits) -> list[_Record]:
        """Record a write; the records that it replaces, whole or in part."""
        if len(self.records) == 1 and self.records[0].lo == lo and hi == self.records[0].hi:
            old, self.records[0] = self.records[0], _Record(lo, hi, writers, {})
            return [old]
        first, last = self.overlapping(lo, hi)
        found = self.records[first:last]
        new = [_Record(lo, hi, writers, {})]
        if found and found[0].lo < lo:
            new.insert(0, _Record(found[0].lo, lo, dict(found[0].writers), dict(found[0].readers)))
        if found and found[-1].hi > hi:
            new.append(_Record(hi, found[-1].hi, dict(found[-1].writers), dict(found[-1].readers)))
        self.put(first, last, new)
        return found


def _latest(found: Iterable[Waits]) -> Waits:
    """To wait for all of these."""
    waits: Waits = {}
    for more in found:
        for lane, number in more.items():
            if number > waits.get(lane, -1):
                waits[lane] = number
    return waits


class Tracker:
    """Derives edges from accesses, sweep after sweep: read after write, write after read, write after write."""

    def __init__(self, buffers: Mapping[str, Buffer]) -> None:
        self.slots = {name: [_Slot() for _ in b.offsets] for name, b in buffers.items()}
        self.number = 0

    def nodes(self, sweep: Sweep) -> Iterator[Node]:
        """The sweep's tasks with their edges; call it for one sweep after the other."""
        for task in sweep.tasks:
            number = self.number
            yield Node(number, task, tuple(sorted(self.waits(task).values())))

    def waits(self, task: Task) -> Waits:
        """On each other lane, the task that this one, the next in order, waits for."""
        waits: Waits = {}
        lane, number = task.lane, self.number
        for buffer, index, lo, hi in task.reads:
            record = self._slot(buffer, index).read(lo, hi)
            for other, n in record.writers.items():
                if n > waits.get(other, -1):
                    waits[other] = n
            record.readers[lane] = number
        for buffer, index, lo, hi in task.writes:
            for record in self._slot(buffer, index).write(lo, hi, {lane: number}):
                for other, n in (record.readers or record.writers).items():
                    if n > waits.get(other, -1):
                        waits[other] = n
        waits.pop(lane, None)
        self.number += 1
        return waits

    def _slot(self, buffer: str, index: int) -> _Slot:
        slots = self.slots.get(buffer)
        if slots is None:
            raise GraphError("FP803", f"{buffer}[{index}]: the graph has no such buffer", fix="correct the schedule")
        return slots[index % len(slots)]
