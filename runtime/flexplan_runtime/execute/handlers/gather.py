"""Rows of the token table, gathered where they live; the table itself never moves."""

from __future__ import annotations

import torch
from torch import Tensor

from flexplan.placement import Piece
from flexplan_runtime.execute.layer_weights import piece_view
from flexplan_runtime.execute.views import TaskView
from flexplan_runtime.memory import BLOCK, aligned_bytes


def gather_rows(view: TaskView, ids: Tensor, out: Tensor) -> None:
    """Fill ``out`` (tokens, embedding) with the rows that are on the host or on disk, and leave the others."""
    rows = out.view(view.block.dtype).view(len(ids), -1)
    if [piece.tier for piece in view.placement.table_pieces] == ["cpu"]:  # one call: other lanes are waiting for Python
        (piece,) = view.placement.table_pieces
        torch.index_select(_on_host(view, piece), 0, ids, out=rows)
        return
    for piece in view.placement.table_pieces:
        if piece.tier == "gpu":
            continue
        wanted = ((ids >= piece.row_lo) & (ids < piece.row_hi)).nonzero().flatten()
        if len(wanted) == 0:
            continue
        local = ids[wanted] - piece.row_lo
        if piece.tier == "cpu":
            rows[wanted] = _on_host(view, piece)[local]
        else:
            rows[wanted] = _from_disk(view, piece, local)


def merge_rows(view: TaskView, ids_BS: Tensor, gathered_BSE: Tensor | None) -> Tensor:
    """(B, S, E): rows of the table on the gpu, and the gathered ones elsewhere."""
    on_gpu = [p for p in view.placement.table_pieces if p.tier == "gpu"]
    rows = gathered_BSE
    for piece in on_gpu:
        home = view.read("weights_gpu", view.placement.table.j)
        assert home is not None, "an embedding declares the table on the gpu"
        table = piece_view(home, piece, piece.offset, view.block.dtype)
        here = table[(ids_BS - piece.row_lo).clamp(0, piece.rows - 1)]
        inside = (ids_BS >= piece.row_lo) & (ids_BS < piece.row_hi)
        rows = here if rows is None else torch.where(inside[..., None], here, rows)
    assert rows is not None, "every row of the table lives somewhere"
    return rows


def _on_host(view: TaskView, piece: Piece) -> Tensor:
    """The rows of a piece on the host."""
    home = view.read("weights_cpu")
    assert home is not None, "a gather declares the table on the host"
    return piece_view(home, piece, piece.offset, view.block.dtype)


def _from_disk(view: TaskView, piece: Piece, local: Tensor) -> Tensor:
    """Rows of a piece on disk: for each the blocks around it, once however often it is asked for."""
    file, start = view.on_disk("weights_disk")
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
        view.count("gather", last - first)
    return rows.view(view.block.dtype)[back]
