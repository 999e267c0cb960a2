"""Handlers that compute: weights unpacked, and what the embedding, a layer or the head makes of a micro-batch."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from flexplan.model import EMBED, HEAD
from flexplan.model.tensors import ATTENTION
from flexplan.placement import Layout
from flexplan_runtime.execute.choosing import NO_TOKEN
from flexplan_runtime.execute.choosing.scoring import Scoring, positions_at_once
from flexplan_runtime.execute.handlers.attention import layer_attention
from flexplan_runtime.execute.handlers.experts import routes
from flexplan_runtime.execute.handlers.gather import merge_rows
from flexplan_runtime.execute.handlers.hidden import working, working_in, working_out
from flexplan_runtime.execute.layer_weights import layer_weights, stored_pieces, whole_view
from flexplan_runtime.execute.views import TaskView
from flexplan_runtime.weights import unpack


def unpack_weight(view: TaskView) -> None:
    """A layer's weights unpacked into whole tensors; what is not packed is copied beside them."""
    w, slot = view.placement.weights[view.task.j], view.slot("weights_unpacked")
    for piece, data in stored_pieces(view):
        whole = whole_view(slot, w, piece.tensor, view.block.dtype)
        unpack(data, piece.tensor, whole[piece.row_lo : piece.row_hi])


def compute(view: TaskView) -> None:
    """A layer of one micro-batch, or what is left of it after `project`."""
    layer = view.layer
    if layer.role == EMBED:
        _embed(view)
    elif layer.role == HEAD:
        _head(view)
    else:
        hidden_BSD = working_in(view)
        for rows in view.row_spans():
            _transform(view, hidden_BSD[rows], rows)
        working_out(view)


def _transform(view: TaskView, slot_BSD: Tensor, rows: slice) -> None:
    """These rows through a transformer layer, or a part of it, in their slot.

    Nothing of attention is kept while the feed-forward block computes, whose widest result would find no place between;
    unless both are given the same.
    """
    layer, family, weights = view.layer, view.block.family, layer_weights(view)
    if family.shape.parallel:
        family.both(weights, slot_BSD, layer_attention(view, slot_BSD, rows), slot_BSD)
        return
    if layer.attends:
        family.merge(weights, slot_BSD, layer_attention(view, slot_BSD, rows), slot_BSD)
    chosen = view.read("routes")
    if chosen is not None:
        family.experts(weights, slot_BSD, *routes(view, chosen), slot_BSD)
    elif layer.role != ATTENTION:
        family.mlp(weights, slot_BSD, slot_BSD)


def _embed(view: TaskView) -> None:
    _take_places(view)
    hidden_BSD, positions_BS, gathered = working(view), view.positions(), view.read("rows")
    ids_BS = view.slot("ids" if view.door is None else "prompt_ids").view(torch.int64).view(hidden_BSD.shape[:2])
    found_BSE = None if gathered is None else gathered.view(view.block.dtype).view(*ids_BS.shape, -1)
    for rows in view.row_spans():
        rows_BSE = merge_rows(view, ids_BS[rows], None if found_BSE is None else found_BSE[rows])
        hidden_BSD[rows] = view.block.family.embed(layer_weights(view), rows_BSE, positions_BS[rows])
    working_out(view)


def _take_places(view: TaskView) -> None:
    """A pass begins: rows are one place further, or where seats say."""
    begins = view.read("seats")
    if begins is not None:
        view.seats.sit(begins.view(torch.int64))
    elif view.door is None:
        view.batch.advance(view.task.i, view.new_tokens)


def _head(view: TaskView) -> None:
    if view.placement.rolls:
        _head_of_seats(view)
        return
    hidden = working_in(view)
    chosen = _choose(view, hidden[:, -1]) if view.batch.scoring is None else _score(view, hidden, view.batch.scoring)
    view.slot("ids").view(torch.int64).copy_(chosen)


def _score(view: TaskView, hidden_BSD: Tensor, scoring: Scoring) -> Tensor:
    """Of the tokens that are given; a row whose figures are numbers gets token 0, that nobody reads."""
    block, weights, rows = view.block, layer_weights(view), view.batch.rows
    room = Layout.of(view.placement).arena_bytes["gpu.workspace"]
    most = positions_at_once(view.placement.shape.vocab_size, block.dtype.itemsize, room)
    broken = scoring.take(rows, hidden_BSD, partial(block.family.head, weights), most)
    return torch.zeros(len(rows), dtype=torch.int64, device=broken.device).masked_fill(broken, NO_TOKEN)


def _choose(view: TaskView, hidden_BD: Tensor) -> Tensor:
    """The next token of every row."""
    block, batch, i = view.block, view.batch, view.task.i
    logits = block.family.head(layer_weights(view), hidden_BD)
    scores = logits if batch.penalties is None else batch.penalties(logits, i)
    chosen = batch.chooser.choose(scores, batch.rows, i)
    if batch.logprobs is not None:
        batch.logprobs.note(logits, chosen, i)
    if len(block.stop_ids):
        chosen = torch.where(batch.stopped, block.pad_id, chosen)
        batch.stopped |= torch.isin(chosen, block.stop_ids)
    if batch.penalties is not None:
        batch.penalties.note(chosen, i)
    return chosen


def _head_of_seats(view: TaskView) -> None:
    """The next token of every seat, or the first ones of newcomers, at their seats beside those of the others."""
    door, ids, i = view.door, view.slot("ids").view(torch.int64), view.task.i
    hidden_BSD = working(view)
    last_BD = hidden_BSD[:, -1] if door is None else hidden_BSD[0, door.ends]
    choice = view.block.choices[i or -view.task.part, view.task.k]
    chosen = choice.of(view.block.family.head(layer_weights(view), last_BD))
    if door is None:
        ids.copy_(chosen)
        return
    if view.read("ids") is None:  # nobody else sits there yet
        ids.zero_()
    ids[door.seats] = chosen
