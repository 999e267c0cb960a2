"""Rows of the token table, gathered where they live; the table itself never moves."""

from __future__ import annotations

import torch
from torch import Tensor

from flexplan.graph.graph import Access, Task
from flexplan.placement.weights import Piece
from flexplan_runtime.execute.block import Job
from flexplan_runtime.memory.disk import BLOCK
from flexplan_runtime.memory.host import aligned_bytes


def gather_rows(job: Job, task: Task, ids: Tensor, out: Tensor) -> None:
    """Fill ``out`` (tokens, embedding) with the rows that are on the host or on disk, and leave the others."""
    rows = out.view(job.dtype).view(len(ids), -1)
    if [piece.tier for piece in job.placement.table_pieces] == ["cpu"]:  # one call: other lanes are waiting for Python
        (piece,) = job.placement.table_pieces
        torch.index_select(_on_host(job, task, piece), 0, ids, out=rows)
        return
    for piece in job.placement.table_pieces:
        if piece.tier == "gpu":
            continue
        wanted = ((ids >= piece.row_lo) & (ids < piece.row_hi)).nonzero().flatten()
        if len(wanted) == 0:
            continue
        local = ids[wanted] - piece.row_lo
        if piece.tier == "cpu":
            rows[wanted] = _on_host(job, task, piece)[local]
        else:
            home_access = next(a for a in task.reads if a.buffer == "weights_disk")
            rows[wanted] = _from_disk(job, task, home_access, piece, local)


def merge_rows(job: Job, task: Task, ids_BS: Tensor, gathered_BSE: Tensor | None) -> Tensor:
    """(B, S, E): rows of the table on the gpu, and the gathered ones elsewhere."""
    on_gpu = [p for p in job.placement.table_pieces if p.tier == "gpu"]
    layer, rows = job.placement.table, gathered_BSE
    for piece in on_gpu:
        home = Access("weights_gpu", layer.j, 0, layer.part_bytes["gpu"])
        table = job.piece_view(job.arena_bytes(home), piece, piece.offset)
        here = table[(ids_BS - piece.row_lo).clamp(0, piece.rows - 1)]
        inside = (ids_BS >= piece.row_lo) & (ids_BS < piece.row_hi)
        rows = here if rows is None else torch.where(inside[..., None], here, rows)
    assert rows is not None, "every row of the table lives somewhere"
    return rows


def _on_host(job: Job, task: Task, piece: Piece) -> Tensor:
    """The rows of a piece on the host."""
    home = job.arena_bytes(next(a for a in task.reads if a.buffer == "weights_cpu"))
    return job.piece_view(home, piece, piece.offset)


def _from_disk(job: Job, task: Task, home: Access, piece: Piece, local: Tensor) -> Tensor:
    """Rows of a piece on disk: for each the blocks around it, once however often it is asked for."""
    file, start = job.disk_range(home)
    needed, back = torch.unique(local, return_inverse=True)
    size = piece.tensor.rows_bytes(1)
    window = aligned_bytes((size // BLOCK + 2) * BLOCK)
    rows = torch.empty(len(needed), size, dtype=torch.uint8)
    for n, row in enumerate(needed.tolist()):
        lo = start + piece.offset + row * size
        first = lo // BLOCK * BLOCK
        last = -(-(lo + size) // BLOCK) * BLOCK
        file.read(first, window[: last - first])
        rows[n] = window[lo - first : lo - first + size]
        job.ledger.count("gather", task.i, last - first)
    return rows.view(job.dtype)[back]
