"""The checker: proves on bytes that a graph fits its budgets and computes what its sequential order computes.

It trusts nobody: neither the placement that laid out the buffers nor the tracker that derived the edges.
Happens-before is kept as vector clocks: for each lane, the number of the last task on it that is sure to
have ended.  What is proved, for whatever interleaving of the lanes the edges allow:

* every two accesses to the same bytes of an arena, one of them a write, are ordered;
* every byte that is read was last written for the same (buffer, index), by tasks that have ended.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import NoReturn

from flexplan.errors import GraphError, InfeasiblePlan
from flexplan.graph.graph import TaskGraph
from flexplan.graph.kinds import tier_of
from flexplan.graph.tasks import Access, Buffer, Node, Sweep, Task
from flexplan.units import format_size

INITIAL = frozenset(
    {"weights_gpu", "weights_cpu", "weights_disk", "ids_host", "prompt_ids_host", "seats_host"}
)  # filled before the first task
KNOBS = {"gpu": "gpu_batch_size or w_gpu_percent", "cpu": "num_gpu_batches or w_cpu_percent", "disk": "num_gpu_batches"}
WINDOW = 1 << 16  # tasks that an edge reaches back; an older one proves nothing
_CONTEXT = 3  # lines around a break


def check_graph(graph: TaskGraph, budgets: Mapping[str, int], extra: Mapping[str, int] | None = None) -> None:
    """Both proofs."""
    check_memory(graph, budgets, extra)
    check_order(graph.buffers, graph.nodes())


# -- memory ---------------------------------------------------------------------------------------------------
def check_memory(graph: TaskGraph, budgets: Mapping[str, int], extra: Mapping[str, int] | None = None) -> None:
    """No two slots share bytes, every access is inside its slot, and each tier's arenas are within its budget.

    ``extra`` adds bytes to a tier, for instance the workspace on the gpu.
    """
    check_budgets(graph, budgets, extra)
    check_accesses(graph)


def check_accesses(graph: TaskGraph) -> None:
    """Every access is inside its slot."""
    for sweep in _ends(graph.sweeps()):
        for task in sweep.tasks:
            for access in (*task.reads, *task.writes):
                _slot_of(graph.buffers, access, task)


def check_budgets(graph: TaskGraph, budgets: Mapping[str, int], extra: Mapping[str, int] | None = None) -> None:
    """No two slots share bytes, and each tier's arenas are within its budget; no task is written for it."""
    _check_slots(graph.buffers.values())
    need = dict.fromkeys(budgets, 0) | dict(extra or {})
    for arena, nbytes in graph.arena_bytes().items():
        need[tier_of(arena)] += nbytes
    over = tuple(tier for tier, budget in budgets.items() if need[tier] > budget)
    if over:
        tier = over[0]
        raise InfeasiblePlan(
            "FP402",
            f"the graph does not fit: {tier} needs {need[tier]} bytes ({format_size(need[tier])}), "
            f"budget {budgets[tier]} ({format_size(budgets[tier])})",
            fix=f"raise --{tier}-mem, or lower {KNOBS.get(tier, 'num_gpu_batches')}",
            binding=over,
            smallest_budget_bytes={t: need[t] if over == (t,) else None for t in budgets},
        )


def _ends(sweeps: Iterable[Sweep]) -> Iterator[Sweep]:
    """The first and last of every run of one pattern: between them all numbers grow evenly."""
    last: Sweep | None = None
    for sweep in sweeps:
        if last is None or sweep.pattern is None or sweep.pattern != last.pattern:
            if last is not None:
                yield last
            yield sweep
        last = sweep
    if last is not None:
        yield last


def _check_slots(buffers: Iterable[Buffer]) -> None:
    spans: dict[str, list[tuple[int, int, str]]] = {}
    for b in buffers:
        for slot, (offset, size) in enumerate(zip(b.offsets, b.sizes, strict=True)):
            if size:
                insort(spans.setdefault(b.arena, []), (offset, offset + size, f"{b.name}[{slot}]"))
    for arena, found in spans.items():
        for (_, end, name), (start, _, other) in pairwise(found):
            if start < end:
                raise GraphError(
                    "FP810", f"{name} and {other} share the bytes {start} .. {end} of {arena}", fix="report the plan"
                )


def _slot_of(buffers: Mapping[str, Buffer], access: Access, task: Task) -> tuple[str, int, int]:
    """(arena, first byte, end) of an access."""
    b = buffers.get(access.buffer)
    if b is None:
        raise GraphError("FP811", f"{task}\n<-- {access} names no buffer of the graph", fix="correct the schedule")
    slot = access.index % len(b.offsets)
    if not 0 <= access.lo <= access.hi <= b.sizes[slot]:
        raise GraphError(
            "FP812", f"{task}\n<-- {access} is outside its slot of {b.sizes[slot]} bytes", fix="correct the schedule"
        )
    return b.arena, b.offsets[slot] + access.lo, b.offsets[slot] + access.hi


# -- happens-before -------------------------------------------------------------------------------------------
def check_order(buffers: Mapping[str, Buffer], nodes: Iterable[Node]) -> None:
    """Raise GraphError, with the lines around the break, where an order that the edges allow reads wrong bytes.

    The nodes come in the graph's sequential order and may be endless; memory follows what is live.
    """
    _Order(buffers).check(nodes)


class _Live:
    """Bytes ``lo .. hi`` of an arena: what they hold, who wrote them, and the last reader on each lane."""

    __slots__ = ("hi", "index", "lo", "name", "readers", "writer")

    def __init__(self, lo: int, hi: int, name: str, index: int, writer: Node | None) -> None:
        self.lo = lo
        self.hi = hi
        self.name = name
        self.index = index
        self.writer = writer  # None: filled before the first task
        self.readers: dict[str, Node] = {}

    def part(self, lo: int, hi: int) -> _Live:
        """The same for some of the bytes."""
        new = _Live(lo, hi, self.name, self.index, self.writer)
        new.readers = dict(self.readers)
        return new


class _Arena:
    """The live bytes of one arena, in order and disjoint."""

    __slots__ = ("live", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.live: list[_Live] = []

    def within(self, lo: int, hi: int) -> tuple[int, int]:
        """Places of the records that lie in ``lo .. hi``; those that cross an edge of it are cut there."""
        starts, live = self.starts, self.live
        first = bisect_right(starts, lo)
        if first and live[first - 1].hi > lo:
            first -= 1
            if starts[first] == lo and live[first].hi == hi:
                return first, first + 1
            if starts[first] < lo:
                self._cut(first, lo)
                first += 1
        last = first
        while last < len(starts) and starts[last] < hi:
            last += 1
        if last > first and live[last - 1].hi > hi:
            self._cut(last - 1, hi)
        return first, last

    def _cut(self, at: int, byte: int) -> None:
        whole = self.live[at]
        self.put(at, at + 1, [whole.part(whole.lo, byte), whole.part(byte, whole.hi)])

    def put(self, first: int, last: int, records: list[_Live]) -> None:
        """Replace the records ``first .. last``."""
        self.live[first:last] = records
        self.starts[first:last] = [record.lo for record in records]


class _Order:
    def __init__(self, buffers: Mapping[str, Buffer]) -> None:
        self.buffers = buffers
        self.arenas = {b.arena: _Arena() for b in buffers.values()}
        self.lanes: dict[str, int] = {}  # lane -> its place in a clock
        self.now: dict[str, tuple[int, ...]] = {}  # lane -> clock of its last task
        self.clocks: dict[int, tuple[int, ...]] = {}  # number -> clock when the task has ended
        self.clock: tuple[int, ...] = ()
        self.recent: deque[Node] = deque(maxlen=_CONTEXT)

    def check(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            self.recent.append(node)
            self._begin(node)
            for access in node.task.reads:
                self._read(node, access)
            for access in node.task.writes:
                self._write(node, access)

    def _begin(self, node: Node) -> None:
        """The clock of a task: what its lane knows, and what the tasks it waits for knew."""
        number, task, after = node
        place = self.lanes.setdefault(task.lane, len(self.lanes))
        clock = self.now.get(task.lane, ())
        for other in after:
            if other >= number or other < 0:
                self._fail("FP813", node, f"waits for task {other}, which does not come before it")
            known = self.clocks.get(other)
            if known is not None:
                clock = _join(clock, known)
        self.clock = clock
        ended = clock + (-1,) * (len(self.lanes) - len(clock))
        ended = (*ended[:place], number, *ended[place + 1 :])
        self.now[task.lane] = self.clocks[number] = ended
        self.clocks.pop(number - WINDOW, None)

    def _before(self, other: Node) -> bool:
        """Whether a task is sure to have ended when the present one starts."""
        place = self.lanes[other.task.lane]
        return place < len(self.clock) and self.clock[place] >= other.number

    def _read(self, node: Node, access: Access) -> None:
        arena_name, lo, hi = _slot_of(self.buffers, access, node.task)
        if lo == hi:
            return
        arena = self.arenas[arena_name]
        first, last = arena.within(lo, hi)
        if first + 1 != last or arena.live[first].lo != lo or arena.live[first].hi != hi:
            last = self._fill_gaps(node, access, arena, first, last, lo, hi)
        found = arena.live[first:last]
        for live in found:
            if live.name != access.buffer or live.index != access.index:
                self._fail("FP815", node, f"reads {access}, but there lies {_spell(live)}", live.writer)
            if live.writer is not None and live.writer is not node and not self._before(live.writer):
                self._fail("FP816", node, f"reads {access} without waiting for its write", live.writer)
            live.readers[node.task.lane] = node
        if len(found) > 1:
            arena.put(first, last, list(_merged(found)))

    def _fill_gaps(self, node: Node, access: Access, arena: _Arena, first: int, last: int, lo: int, hi: int) -> int:
        """Bytes that no task wrote hold what was there before the first task, if anything was."""
        known = access.buffer in INITIAL and access.index < len(self.buffers[access.buffer].offsets)
        filled: list[_Live] = []
        at = lo
        for live in arena.live[first:last]:
            if at < live.lo:
                filled.append(_Live(at, live.lo, access.buffer, access.index, None))
            filled.append(live)
            at = live.hi
        if at < hi:
            filled.append(_Live(at, hi, access.buffer, access.index, None))
        if len(filled) > last - first:
            if not known:
                self._fail("FP814", node, f"reads {access}, which nobody has filled")
            arena.put(first, last, filled)
        return first + len(filled)

    def _write(self, node: Node, access: Access) -> None:
        arena_name, lo, hi = _slot_of(self.buffers, access, node.task)
        if lo == hi:
            return
        arena = self.arenas[arena_name]
        first, last = arena.within(lo, hi)
        for live in arena.live[first:last]:
            for reader in live.readers.values():
                if reader is not node and not self._before(reader):
                    self._fail("FP817", node, f"writes {access} while {_spell(live)} may still be read", reader)
            if live.writer is not None and live.writer is not node and not self._before(live.writer):
                self._fail("FP818", node, f"writes {access} while {_spell(live)} may still be written", live.writer)
        new = _Live(lo, hi, access.buffer, access.index, node)
        if last == first + 1:
            arena.live[first] = new
            arena.starts[first] = lo
        else:
            arena.put(first, last, [new])

    def _fail(self, code: str, node: Node, what: str, other: Node | None = None) -> NoReturn:
        """The lines around a break, in the text form of the graph."""
        lines = [f"{s.number}: {s.task}" for s in self.recent]
        lines[-1] += f"  after={','.join(map(str, node.after)) or '-'}  <-- {what}"
        if other is not None and other not in self.recent:
            lines[:0] = [f"{other.number}: {other.task}", "..."]
        raise GraphError(code, f"{node.task.name} {what}:\n" + "\n".join(lines), fix="correct the schedule's accesses")


def _join(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    return tuple(map(max, longer, shorter)) + longer[len(shorter) :]


def _spell(live: _Live) -> str:
    return f"{live.name}[{live.index}]"


def _merged(found: list[_Live]) -> Iterator[_Live]:
    """Neighbours that one task has read and one lane has written become one record, or appending would never end.

    The later write stands for both; lane order says that the earlier one has ended by then.
    """
    last = found[0]
    for live in found[1:]:
        if _alike(last, live):
            last.hi = live.hi
            if live.writer is not None and last.writer is not None and live.writer.number > last.writer.number:
                last.writer = live.writer
        else:
            yield last
            last = live
    yield last


def _alike(one: _Live, other: _Live) -> bool:
    if one.hi != other.lo or one.readers != other.readers:
        return False
    if one.writer is None or other.writer is None:
        return one.writer is other.writer
    return one.writer.task.lane == other.writer.task.lane
