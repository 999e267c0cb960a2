"""Tasks: the words a task graph is written in: accesses, work, tasks, sweeps and buffers."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from operator import add
from typing import Any, NamedTuple

from flexplan.errors import GraphError


class Access(NamedTuple):
    """Bytes ``lo .. hi`` of slot ``index mod slots`` of a buffer."""

    buffer: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    lo: int
    hi: int

    def __str__(self) -> str:
        return f"{self.buffer}[{self.index}]:{self.lo}-{self.hi}"


class Work(NamedTuple):
    """What a task costs, by resource; seconds only come in under a Hardware (`cost/rates.py`)."""

    gpu_flops: float = 0
    gpu_bytes: float = 0
    up_bytes: float = 0  # host to device
    down_bytes: float = 0
    host_bytes: float = 0  # host memory traffic of copies and direct memory access
    attended_bytes: float = 0  # keys and values that host attention reads
    attended_packed_bytes: float = 0  # the same where they are packed: it computes more for each
    host_flops: float = 0  # of host attention, beyond those of the first query head of each KV head
    read_bytes: float = 0
    write_bytes: float = 0
    gpu_between_bytes: float = 0  # what the kernels between the products read and write; nothing hides their time
    gpu_packed_bytes: float = 0  # packed keys and values that attention on the gpu reads
    gpu_matrix_bytes: float = 0  # matrices for several rows: a library of the host first copies them
    products: float = 0  # with a matrix, each a kernel or more of its own
    kernels: float = 0  # all others that a task on the gpu launches
    samples: float = 0  # micro-batches whose next tokens it chooses

    def __str__(self) -> str:
        return ",".join(f"{name}:{value}" for name, value in self._asdict().items() if value) or "none"

    def plus(self, other: Work) -> Work:
        """Both, one after the other."""
        return Work(*map(add, self, other))


NOTHING = Work()


class Task(NamedTuple):
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
        reads, writes = (";".join(map(str, accesses)) or "-" for accesses in (self.reads, self.writes))
        return f"{self.name} work={self.work} reads={reads} writes={writes}"


class Sweep:
    """The tasks of one pass over the layers, token ``i`` of the micro-batches ``ks``; they are written when asked for.

    Sweeps that follow one another with an equal ``pattern`` are alike task for task, and every number in
    them (indices, bytes, work) grows by the same step from one to the next.  None promises nothing.
    """

    __slots__ = ("_source", "_tasks", "boarding", "i", "ks", "pattern")

    def __init__(
        self, i: int, ks: tuple[int, ...], tasks: Iterable[Task], pattern: Hashable = None, boarding: Any = None
    ) -> None:
        self.boarding = boarding  # of a rolling schedule: who is there
        self.i = i
        self.ks = ks
        self.pattern = pattern
        self._source = tasks
        self._tasks: tuple[Task, ...] | None = None

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks in order."""
        if self._tasks is None:
            self._tasks = tuple(self._source)
        return self._tasks


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


class Node(NamedTuple):
    """A task, its number in the graph's order, and the tasks on other lanes that it waits for."""

    number: int
    task: Task
    after: tuple[int, ...]
