"""Bytes on three tiers: held, counted, moved.

arenas        The bytes of each tier, charged to its budget, and the counts of what moved.
block_memory  The bytes that an access of a task means.
copies        Bytes from one memory to another, counted where they move.
disk          The disk tier: one anonymous file, past the page cache, every block with a checksum.
host          Host memory for direct I/O and DMA: mapped, touched by all threads, registered.
host_limits   What containers (cgroups) and ulimits leave of host memory; which directories lie in it.
"""

from flexplan_runtime.memory.arenas import Arenas, Ledger
from flexplan_runtime.memory.block_memory import BlockMemory
from flexplan_runtime.memory.copies import PIECE_BYTES, fetch_rows, move
from flexplan_runtime.memory.disk import BLOCK, ScratchFile
from flexplan_runtime.memory.host import HostBlock, aligned_bytes
from flexplan_runtime.memory.host_limits import in_memory, refuse_beyond, room

__all__ = [
    "BLOCK",
    "PIECE_BYTES",
    "Arenas",
    "BlockMemory",
    "HostBlock",
    "Ledger",
    "ScratchFile",
    "aligned_bytes",
    "fetch_rows",
    "in_memory",
    "move",
    "refuse_beyond",
    "room",
]
