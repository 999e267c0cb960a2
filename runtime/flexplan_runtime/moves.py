"""Moves: bytes from one memory to another, counted where they move."""

from __future__ import annotations

from torch import Tensor

from flexplan.graph import D2H, H2D_CACHE, H2D_SMALL, H2D_WEIGHTS, KINDS, Task
from flexplan_runtime.arenas import Ledger

PIECE_BYTES = 16 << 20  # a small copy of another lane waits for one piece, not for a whole layer
_RESOURCE = {H2D_WEIGHTS: "up_bytes", H2D_CACHE: "up_bytes", H2D_SMALL: "up_bytes", D2H: "down_bytes"}


def move(ledger: Ledger, task: Task, out: Tensor, data: Tensor) -> None:
    """``data`` into ``out`` on behalf of a task; a large contiguous transfer goes in pieces."""
    if out.dim() > 1 or out.nbytes <= PIECE_BYTES:
        out.copy_(data, non_blocking=True)
    else:
        step = PIECE_BYTES // out.element_size()
        for start in range(0, len(out), step):
            out[start : start + step].copy_(data[start : start + step], non_blocking=True)
    resource = _RESOURCE.get(KINDS[task.kind].lane)
    if resource:
        ledger.count(resource, task.i, data.nbytes)
