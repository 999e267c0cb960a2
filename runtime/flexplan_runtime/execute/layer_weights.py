"""The weights of a task's layer, as typed tensors over the bytes that the task declares."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flexplan.errors import GraphError
from flexplan.model import WeightTensor
from flexplan.model.tensors import ROUTING
from flexplan.placement import LayerWeights, Piece
from flexplan_runtime.execute.views import TaskView
from flexplan_runtime.models import Pieces


def layer_weights(view: TaskView) -> dict[str, Pieces]:
    """The tensors of the task's layer, as row pieces in the order of their rows; for a router by itself, its own."""
    task = view.task
    moving = next((a for a in task.reads if a.buffer in ("weight_ring", "weights_unpacked")), None)
    by_itself = task.kind == "route"
    place = (task.j, -1 if moving is None else view.slot_number(moving), by_itself)
    found = view.block.weights.get(place)
    if found is None:
        unpacked = view.read("weights_unpacked")
        found = _pieces(view, by_itself) if unpacked is None else _whole(view, unpacked)
        view.block.family.prepare(found, view.layer.depth)
        view.block.weights[place] = found
    return found


def stored_pieces(view: TaskView, *, router: bool = False) -> Iterator[tuple[Piece, Tensor]]:
    """The pieces of the task's layer with their bytes, resident or streamed; of a mixture all, or its router's."""
    w = view.placement.weights[view.task.j]
    resident, ring = view.read("weights_gpu", view.task.j), view.read("weight_ring")
    for piece in w.pieces:
        if router and not piece.tensor.name.startswith(ROUTING):
            continue
        home, start = (resident, piece.offset) if piece.tier == "gpu" else (ring, w.ring_offset(piece))
        if home is None:
            name = f"{view.task.name} does not read {piece.tensor.name}"
            raise GraphError("FP805", name, fix="correct the schedule")
        yield piece, home[start : start + piece.nbytes]


def piece_view(data: Tensor, piece: Piece, start: int, dtype: torch.dtype) -> Tensor:
    """(rows, cols) of a piece, or (rows,) of a vector, that begins at byte ``start`` of ``data``."""
    flat = data[start : start + piece.nbytes].view(dtype)
    return flat if piece.tensor.cols == 1 else flat.view(piece.rows, piece.tensor.cols)


def whole_view(data: Tensor, w: LayerWeights, tensor: WeightTensor, dtype: torch.dtype) -> Tensor:
    """The same of a whole tensor in the unpacked weights."""
    start = w.unpacked[tensor]
    flat = data[start : start + tensor.unpacked_bytes].view(dtype)
    return flat if tensor.cols == 1 else flat.view(tensor.rows, tensor.cols)


def _whole(view: TaskView, unpacked: Tensor) -> dict[str, Pieces]:
    """Whole tensors, unpacked."""
    w = view.placement.weights[view.task.j]
    return {tensor.name: (whole_view(unpacked, w, tensor, view.block.dtype),) for tensor in w.unpacked}


def _pieces(view: TaskView, router: bool) -> dict[str, Pieces]:
    found: dict[str, list[Tensor]] = {}
    for piece, data in stored_pieces(view, router=router):
        found.setdefault(piece.tensor.name, []).append(piece_view(data, piece, 0, view.block.dtype))
    return {name: tuple(pieces) for name, pieces in found.items()}
