"""Block memory: the bytes that an access of a task means."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from flexplan.graph import Access
from flexplan.placement import Layout
from flexplan_runtime.memory.arenas import Arenas
from flexplan_runtime.memory.disk import ScratchFile


@dataclass(frozen=True)
class BlockMemory:
    """The arenas of one block; those of the weights serve all blocks."""

    layout: Layout
    weights: Arenas
    work: Arenas

    def bytes_of(self, access: Access) -> Tensor:
        """The bytes of an access in memory."""
        buffer = self.layout.buffers[access.buffer]
        lo, hi = buffer.interval(access)
        arenas = self.weights if buffer.arena in self.weights.memory else self.work
        return arenas.memory[buffer.arena][lo:hi]

    def disk_range(self, access: Access) -> tuple[ScratchFile, int]:
        """The file and offset of an access on disk."""
        buffer = self.layout.buffers[access.buffer]
        arenas = self.weights if buffer.arena in self.weights.disk else self.work
        return arenas.disk[buffer.arena], buffer.interval(access)[0]

    def slot(self, access: Access) -> int:
        """The number of the slot that an access touches."""
        return self.layout.buffers[access.buffer].slot(access.index)
