"""Newcomers of a rolling schedule: each prompt attends to itself, and its keys and values go to the seat it takes.

Letters as in `attention`, and T the tokens of all prompts of a door, one behind the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from flexplan_runtime.attention import attention_by_rule, by_grain, grain_rows
from flexplan_runtime.execute.layer_weights import layer_weights
from flexplan_runtime.execute.seating import Span
from flexplan_runtime.execute.views import TaskView


def attention_at_door(view: TaskView, hidden_1TD: Tensor) -> Tensor:
    """(1, T, N x H); what is kept of it goes to the cache on the gpu, and into what leaves it."""
    q, k, v = _projected(view, hidden_1TD)
    _keep(view, view.block.stored(k)[0], view.block.stored(v)[0])
    rule, unpadded, done = view.rule, view.seats.pads.new_zeros(1), list[Tensor]()
    for span in _spans(view):
        part = slice(span.start, span.stop)
        done.append(attention_by_rule(q[:, part], k[:, part], v[:, part], unpadded, None, rule))
    return done[0] if len(done) == 1 else torch.cat(done, 1)


def _projected(view: TaskView, hidden_1TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All prompts at once, or one by one where positions turn by how long a row is."""
    project, weights, positions = view.block.family.project, layer_weights(view), view.positions()
    if not view.block.family.turns_by_length:
        return project(weights, hidden_1TD, positions, view.layer.depth)
    parts = [slice(span.start, span.stop) for span in _spans(view)]
    found = [project(weights, hidden_1TD[:, part], positions[:, part], view.layer.depth) for part in parts]
    q, k, v = (torch.cat(each, 1) for each in zip(*found, strict=True))
    return q, k, v


def _keep(view: TaskView, k_TKH: Tensor, v_TKH: Tensor) -> None:
    """Each head of each newcomer by its home."""
    s, resident, fresh = view.segment, view.write("cache_gpu"), view.write("fresh_prefill")
    homes = None if resident is None else by_grain(resident, s, s.grains[0], s.capacity, view.block.cache_dtype)
    leaving = iter(()) if fresh is None else _leaving(view, fresh)
    for span, stay in _by_home(view):
        if stay and homes is not None:
            first = span.guest.row * k_TKH.shape[1]
            view.note("cache", "gpu", stay * min(span.length, s.capacity) * s.pair_bytes)
            for column, token, count in span.columns(s.capacity):
                to = homes[first : first + stay, :, column : column + count]
                for part, x in zip(to.unbind(1), (k_TKH, v_TKH), strict=False):  # keys alone, where they are values
                    part.copy_(x[span.kept(s.capacity)][token : token + count, :stay].transpose(0, 1))
        if stay < k_TKH.shape[1]:
            for part, x in zip(next(leaving).unbind(1), (k_TKH, v_TKH), strict=False):
                part.copy_(x[span.kept(s.capacity), stay:].transpose(0, 1))


def store_newcomers(view: TaskView) -> None:
    """Keys and values that leave the gpu to the columns of their seats on the host."""
    s, heads = view.segment, view.placement.shape.num_kv_heads
    home = by_grain(view.target(), s, s.grains[1], s.capacity, view.block.cache_dtype)
    leaving = _leaving(view, view.source())
    for span, stay in _by_home(view):
        if stay == heads:
            continue
        source, first = next(leaving), span.guest.row * heads + stay - s.grains[0]
        to = home[first : first + heads - stay]
        view.note("cache", "cpu", source.nbytes)
        for column, token, count in span.columns(s.capacity):
            view.move(grain_rows(to, column, count), grain_rows(source, token, count))


def _spans(view: TaskView) -> list[Span]:
    door = view.door
    assert door is not None, "its task is that of a door"
    return door.spans


def _by_home(view: TaskView) -> Iterator[tuple[Span, int]]:
    """Each newcomer, and how many of its heads are at home on the gpu."""
    for span in _spans(view):
        yield span, view.placement.heads_on_gpu(view.layer.depth, view.task.k, span.guest.row)


def _leaving(view: TaskView, data: Tensor) -> Iterator[Tensor]:
    """(heads, 2 or 1, tokens that are kept, H) of each newcomer of whom some leaves the gpu, one behind the other."""
    s, heads = view.segment, view.placement.shape.num_kv_heads
    sizes = [(min(span.length, s.capacity), heads - stay) for span, stay in _by_home(view) if stay < heads]
    ends = [0]
    for length, some in sizes:
        ends.append(ends[-1] + length * some * s.pair_bytes)
    for (length, some), (lo, hi) in zip(sizes, pairwise(ends), strict=True):
        yield by_grain(data[lo:hi], s, some, length, view.block.cache_dtype)
