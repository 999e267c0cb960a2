"""Guests of a rolling schedule that move to a larger seat: their keys and values go there as they are stored."""

from __future__ import annotations

import torch
from torch import Tensor

from flexplan.model import EMBED
from flexplan.schedule import Guest, Move, columns_moved, heads_moved
from flexplan_runtime.attention import by_grain, grain_rows
from flexplan_runtime.execute.views import TaskView


def move_cache(view: TaskView) -> None:
    """The heads that its task brings from one seat's home to the other's, column by column."""
    number = view.task.i - 1
    move: Move = view.block.moves[number][view.task.part - 1]
    if view.layer.role == EMBED:
        _move_id(view, move)
        return
    heads = next(h for h in heads_moved(view.placement, view.layer.depth, move) if h.kind == view.task.kind)
    source, was_room = _seat(view, move.was, heads.source, view.source(), heads.first, heads.stop)
    target, now_room = _seat(view, move.now, heads.target, view.target(), heads.first, heads.stop)
    for column, to, count in columns_moved(move, number, was_room, now_room):
        view.move(grain_rows(target, to, count), grain_rows(source, column, count))


def _move_id(view: TaskView, move: Move) -> None:
    """The newest token, to be embedded beside those of the others there, if there are any."""
    ids = view.target().view(torch.int64)
    if len(view.task.reads) == 1:
        ids.zero_()
    ids[move.now.row : move.now.row + 1].copy_(view.source().view(torch.int64))


def ids_of(view: TaskView) -> Tensor:
    """On the host, the tokens whose embeddings a task gathers, those of who has moved in their new seats."""
    moves = [move for move in view.block.moves.get(view.task.i - 1, ()) if move.now.k == view.task.k]
    if not moves:
        return view.source().view(torch.int64).clamp(min=0)  # of a row that no token was chosen for
    ids = torch.zeros(view.placement.rows(view.task.k), dtype=torch.int64)
    chosen = [data.view(torch.int64) for data in view.ranges("outputs")]
    if len(chosen) > len(moves):  # somebody was there before
        ids.copy_(chosen.pop(0))
    for move, token in zip(moves, chosen, strict=True):
        ids[move.now.row] = token[0]
    return ids.clamp(min=0)


def _seat(view: TaskView, guest: Guest, tier: str, home: Tensor, first: int, stop: int) -> tuple[Tensor, int]:
    """(heads, 2, room, H) of a guest's seat on a tier, and its room."""
    s = view.placement.segment(view.layer, guest.k)
    on_gpu = s.grains[0]
    at = guest.row * view.placement.shape.num_kv_heads - (on_gpu if tier == "cpu" else 0)
    grains = by_grain(home, s, on_gpu if tier == "gpu" else s.grains[1], s.capacity, view.block.cache_dtype)
    return grains[at + first : at + stop], s.capacity
