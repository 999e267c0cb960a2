"""Views: a task as its handler sees it.

A handler is given a ``TaskView`` and nothing else: bytes that its task does not declare cannot be reached.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flexplan.errors import GraphError
from flexplan.graph import Access, Task
from flexplan.model import Layer
from flexplan.placement import Placement, Segment, rows_at_once
from flexplan_runtime.execute.block import BatchState, BlockState
from flexplan_runtime.execute.rings import Ring
from flexplan_runtime.execute.seating import DoorState, SeatState
from flexplan_runtime.kernels.attention_rule import AttentionRule
from flexplan_runtime.memory import BlockMemory, ScratchFile, move

HOST = torch.device("cpu")


class TaskView:
    """What a task is about, what its block computes with, and the bytes that it declares."""

    __slots__ = ("_memory", "block", "task")

    def __init__(self, block: BlockState, task: Task, memory: BlockMemory) -> None:
        self.block = block
        self.task = task
        self._memory = memory

    # -- what it is about ------------------------------------------------------------------------------------
    @property
    def placement(self) -> Placement:
        return self.block.placement

    @property
    def layer(self) -> Layer:
        return self.placement.layers[self.task.j]

    @property
    def segment(self) -> Segment:
        """The cache of its layer and micro-batch."""
        return self.placement.segment(self.layer, self.task.k)

    @property
    def batch(self) -> BatchState:
        return self.block.batches[self.task.k]

    @property
    def seats(self) -> SeatState:
        """Its micro-batch, where rows are seats."""
        batch = self.batch
        assert isinstance(batch, SeatState), "only a rolling graph says where rows begin"
        return batch

    @property
    def door(self) -> DoorState | None:
        """The newcomers of its pass whose prompts it computes; None where it computes rows that are there."""
        return self.block.doors[self.task.part, self.task.k] if self.placement.rolls and not self.task.i else None

    @property
    def rule(self) -> AttentionRule:
        """What attention of its layer makes of scores, where the block computes."""
        return self.block.family.rule(self.layer.depth, self.batch.pads.device)

    @property
    def host_rule(self) -> AttentionRule:
        """The same on the host."""
        return self.block.family.rule(self.layer.depth, HOST)

    @property
    def new_tokens(self) -> int:
        """Positions of one row that this step computes."""
        return self.placement.new_tokens(self.task.i, self.task.k)

    # -- positions of one row in the cache of its layer ------------------------------------------------------------
    @property
    def kept_tokens(self) -> int:
        """Those that this step adds."""
        return self.placement.kept(self.task.i, self.layer, self.task.k)

    @property
    def old_tokens(self) -> int:
        """Those that are there before."""
        return self.placement.old(self.task.i, self.layer, self.task.k)

    @property
    def column(self) -> int:
        """Where this step begins to add."""
        if self.placement.rolls:
            return (self.task.i - 1) % self.segment.capacity
        return self.placement.column(self.task.i, self.layer, self.task.k)

    @property
    def place(self) -> int:
        """The place of the newest one of a step of decoding; in a ring, counted over two laps."""
        second = self.placement.added(self.task.i, self.layer, self.task.k) >= self.segment.capacity
        return self.column + (self.segment.capacity if second else 0)

    @property
    def ring(self) -> Ring | None:
        """What its micro-batch knows of the cache of its layer, if that is a ring."""
        return self.batch.rings.get(self.segment.capacity)

    @property
    def newest(self) -> Tensor:
        """(1,) on the device: the place of the newest token."""
        return self.batch.position if self.ring is None else self.ring.newest

    @property
    def kept_at(self) -> Tensor:
        """(1,) on the device: the column of the newest token."""
        return self.batch.position if self.ring is None else self.ring.column

    @property
    def unread(self) -> Tensor:
        """(B x K,) on the device: places of each grain before those that the newest token reads, int32."""
        return self.batch.unread(self.rule.window) if self.ring is None else self.ring.unread

    @property
    def host_unread(self) -> Tensor:
        """The same on the host, int64, as of the last `slide_on_host`."""
        return self.batch.host_unread(self.rule.window) if self.ring is None else self.ring.host_unread

    def slide_on_host(self) -> None:
        """Set `host_unread` to what the newest token does not read."""
        if self.ring is None:
            self.batch.slide_on_host(self.rule.window, self.place + 1)
        else:
            number = self.task.i - 1  # of the pass, by which seats count
            position = number if self.placement.rolls else self.placement.context(self.task.i, self.task.k) - 1
            self.ring.slide_on_host(position, self.place, self.batch.host_grain_pads)

    def positions(self) -> Tensor:
        """(B, S) positions in each row's own counting; padding is negative."""
        if (door := self.door) is not None:
            return door.positions
        return self.batch.positions if self.task.i else self.batch.prompt_positions(self.new_tokens)

    def row_spans(self) -> list[slice]:
        """Rows of the micro-batch that a layer computes together."""
        if self.door is not None:
            return [slice(0, 1)]
        rows = len(self.batch.rows)
        step = rows if self.task.i else rows_at_once(rows, self.new_tokens)
        return [slice(first, first + step) for first in range(0, rows, step)]

    # -- the bytes that it declares --------------------------------------------------------------------------
    def read(self, buffer: str, index: int | None = None) -> Tensor | None:
        """Bytes that the task reads of a buffer, or of one index of it; None where it reads none."""
        return self._bytes(self.task.reads, buffer, index)

    def write(self, buffer: str) -> Tensor | None:
        """Bytes that the task writes."""
        return self._bytes(self.task.writes, buffer, None)

    def slot(self, buffer: str) -> Tensor:
        """All bytes of a buffer's slot that the task reads or writes, as one range."""
        found = [a for a in (*self.task.reads, *self.task.writes) if a.buffer == buffer]
        if not found:
            raise GraphError("FP806", f"{self.task.name} declares no {buffer}", fix="correct the schedule")
        lo, hi = min(a.lo for a in found), max(a.hi for a in found)
        return self._memory.bytes_of(found[0]._replace(lo=lo, hi=hi))

    def source(self) -> Tensor:
        """The first range that the task reads."""
        return self._memory.bytes_of(self.task.reads[0])

    def target(self) -> Tensor:
        """The first range that the task writes."""
        return self._memory.bytes_of(self.task.writes[0])

    def sources(self) -> list[Tensor]:
        """All ranges that the task reads, in its order."""
        return [self._memory.bytes_of(a) for a in self.task.reads]

    def targets(self) -> list[Tensor]:
        """All ranges that the task writes, in its order."""
        return [self._memory.bytes_of(a) for a in self.task.writes]

    def ranges(self, buffer: str) -> list[Tensor]:
        """All ranges of a buffer that the task reads, in its order."""
        return [self._memory.bytes_of(a) for a in self.task.reads if a.buffer == buffer]

    def on_disk(self, buffer: str) -> tuple[ScratchFile, int]:
        """The file and offset of what the task reads or writes of a buffer on disk."""
        return self._memory.disk_range(next(a for a in (*self.task.reads, *self.task.writes) if a.buffer == buffer))

    def slot_number(self, access: Access) -> int:
        """Which slot of its buffer a declared access touches: the same number means the same addresses."""
        return self._memory.slot(access)

    def _bytes(self, accesses: tuple[Access, ...], buffer: str, index: int | None) -> Tensor | None:
        for a in accesses:
            if a.buffer == buffer and (index is None or a.index == index):
                return self._memory.bytes_of(a)
        return None

    # -- what is counted -------------------------------------------------------------------------------------
    def move(self, out: Tensor, data: Tensor) -> None:
        """``data`` into ``out``, both the task's; counted for its lane."""
        move(self.block.ledger, self.task, out, data)

    def count(self, resource: str, nbytes: int) -> None:
        """Count bytes that moved past `move`."""
        self.block.ledger.count(resource, self.task.i, nbytes)

    def note(self, what: str, tier: str, nbytes: int) -> None:
        """Count what a prompt leaves in its home, in the first of like blocks: a replayed step runs no handler.

        Newcomers of a rolling schedule always leave something, a block of one token nothing.
        """
        keeps = self.placement.rolls or self.placement.block.gen_len > 1
        if self.block.noting and self.task.i == 0 and keeps:
            self.block.ledger.store(what, tier, nbytes)


Handler = Callable[[TaskView], None]
