"""The task graph: what a schedule writes, a simulator times and a runtime executes.

Edges are not drawn by hand.  A task names what it reads and writes, (buffer, index, bytes); the slot is
``index mod slots``.  Executed one after the other in the order of the graph, every read sees the last
write before it; ``Tracker`` derives from that the edges which keep it so when lanes run side by side.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flexplan.errors import GraphError

# -- lanes: ordering domains, each in order within itself ------------------------------------------------
GPU = "gpu"
H2D_WEIGHTS, H2D_CACHE, H2D_SMALL, D2H = "h2d_weights", "h2d_cache", "h2d_small", "d2h"
DISK_READ, DISK_WRITE = "disk_read", "disk_write"
CPU, HOST_COPY = "cpu", "host_copy"
INLINE = "inline"
LANES = (GPU, H2D_WEIGHTS, H2D_CACHE, H2D_SMALL, D2H, CPU, HOST_COPY, DISK_READ, DISK_WRITE, INLINE)


class Kind(NamedTuple):
    """What a task of this kind does: its lane, what it reads and writes.  A handler has the name of its kind."""

    lane: str
    reads: str
    writes: str


# The plug-in contract.  load_ and store_ cross the link, read_ and write_ reach the disk.
KINDS: Mapping[str, Kind] = {
    "read_weight": Kind(DISK_READ, "weights_disk", "weight_relay"),
    "stage_weight": Kind(HOST_COPY, "weights_cpu", "weight_stage"),
    "load_weight": Kind(H2D_WEIGHTS, "weights_cpu, weight_stage, weight_relay", "weight_ring"),
    "gather": Kind(CPU, "ids_host or outputs, weights_cpu, weights_disk", "rows_host"),
    "load_rows": Kind(H2D_SMALL, "rows_host", "rows"),
    "load_ids": Kind(H2D_SMALL, "ids_host", "ids"),
    "read_hidden": Kind(DISK_READ, "hidden_disk", "hidden_relay"),
    "load_hidden": Kind(H2D_SMALL, "hidden_cpu, hidden_relay", "hidden"),
    "read_cache": Kind(DISK_READ, "cache_disk", "cache_relay"),
    "load_cache": Kind(H2D_CACHE, "cache_cpu, cache_relay", "cache_ring"),
    "project": Kind(GPU, "weights, hidden, cache_gpu", "queries, fresh, attention, cache_gpu"),
    "send_query": Kind(D2H, "queries", "queries_host"),
    "attend": Kind(CPU, "queries_host, cache_cpu, cache_relay, cache_out", "attention_host"),
    "load_attention": Kind(H2D_SMALL, "attention_host", "attention"),
    "compute": Kind(GPU, "weights, hidden, cache_gpu, cache_ring, rows, ids, attention", "hidden, cache, fresh, ids"),
    "store_cache": Kind(D2H, "fresh", "cache_cpu, cache_out"),
    "write_cache": Kind(DISK_WRITE, "cache_out", "cache_disk"),
    "store_hidden": Kind(D2H, "hidden", "hidden_cpu, hidden_relay"),
    "write_hidden": Kind(DISK_WRITE, "hidden_relay", "hidden_disk"),
    "store_ids": Kind(D2H, "ids", "outputs"),
}


class Access(NamedTuple):
    """Bytes ``lo .. hi`` of slot ``index mod slots`` of a buffer."""

    buffer: str
    index: int
    lo: int
    hi: int

    def __str__(self) -> str:
        return f"{self.buffer}[{self.index}]:{self.lo}-{self.hi}"


class Work(NamedTuple):
    """What a task costs, by resource; seconds only come in under a Hardware (see cost.py)."""

    gpu_flops: float = 0
    gpu_bytes: float = 0
    up_bytes: float = 0  # host to device
    down_bytes: float = 0
    host_bytes: float = 0  # host memory traffic of copies and direct memory access
    attended_bytes: float = 0  # keys and values that host attention reads
    host_flops: float = 0
    read_bytes: float = 0
    write_bytes: float = 0

    def __str__(self) -> str:
        return ",".join(f"{name}:{value:g}" for name, value in self._asdict().items() if value) or "none"

    def plus(self, other: Work) -> Work:
        """Both, one after the other."""
        return Work(*(a + b for a, b in zip(self, other, strict=True)))


NOTHING = Work()


@dataclass(frozen=True, slots=True)
class Task:
    """One step on one lane: ``compute@gpu[i=0 j=3 k=1]`` is token i, layer j, micro-batch k."""

    kind: str
    lane: str
    i: int
    j: int
    k: int
    part: int = 0
    work: Work = NOTHING
    reads: tuple[Access, ...] = ()
    writes: tuple[Access, ...] = ()

    @property
    def name(self) -> str:
        """The identity, as it prints and parses."""
        part = f" p={self.part}" if self.part else ""
        return f"{self.kind}@{self.lane}[i={self.i} j={self.j} k={self.k}{part}]"

    def __str__(self) -> str:
        spell = lambda accesses: ";".join(map(str, accesses)) or "-"  # noqa: E731 - one line, used twice
        return f"{self.name} work={self.work} reads={spell(self.reads)} writes={spell(self.writes)}"


@dataclass(frozen=True, slots=True)
class Sweep:
    """One pass over the layers: token ``i`` of the micro-batches ``ks``."""

    i: int
    ks: tuple[int, ...]
    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Buffer:
    """Slots in one arena; slot s is the bytes ``offsets[s] .. offsets[s] + sizes[s]``."""

    name: str
    arena: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    def slot(self, index: int) -> int:
        return index % len(self.offsets)

    def interval(self, access: Access) -> tuple[int, int]:
        """Bytes of the arena that an access touches."""
        slot = self.slot(access.index)
        if not 0 <= access.lo <= access.hi <= self.sizes[slot]:
            raise GraphError(
                "FP801", f"{access} is outside its slot of {self.sizes[slot]} bytes", fix="correct the schedule"
            )
        return self.offsets[slot] + access.lo, self.offsets[slot] + access.hi


Finished = Callable[[int], bool]  # has every row of micro-batch k stopped?


def never(k: int) -> bool:
    """No micro-batch stops early."""
    return False


@dataclass(frozen=True, slots=True)
class Step:
    """A task, its number in the graph's order, and the tasks on other lanes that it waits for."""

    number: int
    task: Task
    after: tuple[int, ...]


@dataclass(frozen=True)
class TaskGraph:
    """The buffers, and an iterator of sweeps; a sweep is made when it is asked for."""

    schedule: str
    live: int  # micro-batches in flight at a time
    buffers: Mapping[str, Buffer]
    make: Callable[[Finished], Iterator[Sweep]] = field(compare=False)

    def sweeps(self, finished: Finished = never) -> Iterator[Sweep]:
        """The sweeps in order; ``finished`` is asked before each, so a block that stopped ends."""
        return self.make(finished)

    def tasks(self) -> Iterator[Task]:
        """All tasks in order."""
        for sweep in self.sweeps():
            yield from sweep.tasks

    def steps(self) -> Iterator[Step]:
        """All tasks with their edges."""
        tracker = Tracker(self.buffers)
        for sweep in self.sweeps():
            yield from tracker.steps(sweep)

    def arena_bytes(self) -> dict[str, int]:
        """Bytes of each arena: the end of its last buffer."""
        sizes: dict[str, int] = {}
        for buffer in self.buffers.values():
            end = max((o + s for o, s in zip(buffer.offsets, buffer.sizes, strict=True)), default=0)
            sizes[buffer.arena] = max(sizes.get(buffer.arena, 0), end)
        return sizes

    def to_networkx(self) -> Any:
        """A networkx DiGraph of task names, for analysis; edges include the order of each lane."""
        import networkx

        view, names, last = networkx.DiGraph(), [], {}
        for step in self.steps():
            name = step.task.name
            view.add_node(name, task=step.task)
            view.add_edges_from((names[n], name) for n in step.after)
            if step.task.lane in last:
                view.add_edge(last[step.task.lane], name)
            last[step.task.lane] = name
            names.append(name)
        return view

    def to_text(self) -> str:
        """One line a buffer, sweep and task; ``from_text`` reads it back."""
        lines = [f"schedule {self.schedule} live={self.live}"]
        for b in self.buffers.values():
            slots = " ".join(f"{o}+{s}" for o, s in zip(b.offsets, b.sizes, strict=True))
            lines.append(f"buffer {b.name} {b.arena} {slots}")
        for sweep in self.sweeps():
            lines.append(f"sweep i={sweep.i} ks={','.join(map(str, sweep.ks))}")
            lines += map(str, sweep.tasks)
        return "\n".join(lines) + "\n"

    @classmethod
    def from_text(cls, text: str) -> TaskGraph:
        """The graph that ``to_text`` wrote; a line that does not parse raises GraphError with its number."""
        schedule, live, buffers, sweeps = "", 1, {}, []
        tasks: list[Task] = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                word, _, rest = line.partition(" ")
                if word == "schedule":
                    schedule, _, live = rest.partition(" live=")
                elif word == "buffer":
                    buffer = _parse_buffer(rest)
                    buffers[buffer.name] = buffer
                elif word == "sweep":
                    tasks = []
                    i, ks = rest.split(" ")
                    sweeps.append((int(i[2:]), tuple(map(int, ks[3:].split(","))), tasks))
                else:
                    tasks.append(parse_task(line))
            except (ValueError, KeyError, TypeError) as error:
                raise GraphError(
                    "FP802", f"line {number} does not parse: {line!r} ({error})", fix="correct it"
                ) from None
        return cls.of(schedule, int(live), buffers, [Sweep(i, ks, tuple(tasks)) for i, ks, tasks in sweeps])

    @classmethod
    def of(cls, schedule: str, live: int, buffers: Mapping[str, Buffer], sweeps: list[Sweep]) -> TaskGraph:
        """A graph whose sweeps are known."""
        return cls(schedule, live, buffers, lambda finished: (s for s in sweeps if not all(map(finished, s.ks))))

    def to_json(self) -> dict[str, Any]:
        """The graph as plain data."""
        return {"schedule": self.schedule, "graph": self.to_text().splitlines()}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> TaskGraph:
        """The graph that ``to_json`` gave."""
        return cls.from_text("\n".join(given["graph"]))


_NAME = re.compile(r"^(\w+)@(\w+)\[i=(\d+) j=(\d+) k=(\d+)(?: p=(\d+))?\]$")
_ACCESS = re.compile(r"^(\w+)\[(\d+)\]:(\d+)-(\d+)$")


def parse_name(text: str) -> tuple[str, str, int, int, int, int]:
    """(kind, lane, i, j, k, part) of a task's name.

    >>> parse_name("load_weight@h2d_weights[i=0 j=4 k=1]")
    ('load_weight', 'h2d_weights', 0, 4, 1, 0)
    """
    found = _NAME.match(text)
    if found is None:
        raise GraphError("FP802", f"{text!r} is not a task's name", fix="write kind@lane[i=0 j=4 k=1]")
    kind, lane, *indices = found.groups()
    i, j, k, part = (int(n or 0) for n in indices)
    return kind, lane, i, j, k, part


def parse_task(line: str) -> Task:
    """The task of a text line."""
    head, _, rest = line.partition("] ")
    fields = dict(part.split("=", 1) for part in rest.split(" "))
    kind, lane, i, j, k, part = parse_name(head + "]")
    return Task(kind, lane, i, j, k, part, _parse_work(fields["work"]), *map(_parse_accesses, _both(fields)))


def _both(fields: Mapping[str, str]) -> tuple[str, str]:
    return fields["reads"], fields["writes"]


def _parse_work(text: str) -> Work:
    if text == "none":
        return Work()
    return Work(**{name: float(value) for name, value in (part.split(":") for part in text.split(","))})


def _parse_accesses(text: str) -> tuple[Access, ...]:
    if text == "-":
        return ()
    found = [_ACCESS.match(part) for part in text.split(";")]
    return tuple(Access(m[1], int(m[2]), int(m[3]), int(m[4])) for m in found if m or _fail(text))


def _fail(text: str) -> bool:
    raise ValueError(f"{text!r} is not a list of accesses")


def _parse_buffer(text: str) -> Buffer:
    name, arena, *slots = text.split(" ")
    pairs = [tuple(map(int, slot.split("+"))) for slot in slots if slot]
    return Buffer(name, arena, tuple(o for o, _ in pairs), tuple(s for _, s in pairs))


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
        record = slot.get(span)
        if record is None:
            record = slot[span] = _Record(-1, "")
        record.readers[lane] = self.number

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
