"""Handlers of attention: its first half on the gpu, its part on the host, and what a layer makes of both.

Letters as in `attention`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flexplan_runtime.attention import (
    HostAttention,
    attention_by_rule,
    attention_weights,
    by_grain,
    by_token,
    choose,
    decode_attention,
    decode_attention_packed,
    disk_pair_bytes,
    pairs_of,
    put_grains,
    scored_attention,
    sparse_attention,
    split_by_home,
    value_rows,
    weighted_values,
)
from flexplan_runtime.execute.handlers.door import attention_at_door
from flexplan_runtime.execute.handlers.hidden import working_in
from flexplan_runtime.execute.layer_weights import layer_weights
from flexplan_runtime.execute.views import TaskView
from flexplan_runtime.kernels.availability import compiles_for


def project(view: TaskView) -> None:
    """Queries, keys and values; attention over what is on the gpu; what the second half needs of the rest."""
    s, hidden = view.segment, working_in(view)
    q, k, v = view.block.family.project(layer_weights(view), hidden, view.positions(), view.layer.depth)
    _keep(view, k, v)
    q_GPH = q.reshape(s.num_grains, -1, s.head_dim)
    queries = view.write("queries")
    if queries is not None:
        queries.view(view.block.dtype).view(s.hosted, -1, s.head_dim).copy_(q_GPH[s.num_grains - s.hosted :])
    out = view.write("attention")
    if out is None:
        return
    out_GPH, chooses, at = out.view(view.block.dtype).view(-1, *q_GPH.shape[1:]), view.write("choices") is not None, 0
    for pairs in _cached(view, view.read("cache_gpu"), None if chooses else view.read("cache_ring")):
        out_GPH[at : at + len(pairs)] = _attend_cached(view, q_GPH[at : at + len(pairs)], pairs, at)
        at += len(pairs)
    if chooses:
        _choose(view, q_GPH[at:], out_GPH[at:])


def _choose(view: TaskView, q_GPH: Tensor, out_GPH: Tensor) -> None:
    """Of the streamed grains: which old values count and how much, and the newest one's part of attention."""
    s, old = view.segment, view.old_tokens
    first, rule = s.grains[0], view.rule
    pads, newest, packing = view.unread[first:], view.newest, view.block.cache_packing
    keys_GTH = by_grain(view.slot("cache_ring"), s, s.streamed, s.capacity, view.block.cache_dtype, 1)[:, 0, : old + 1]
    probs = attention_weights(q_GPH, keys_GTH, pads, newest, rule, packing, first)
    positions, probs = choose(probs, pads, newest, view.placement.policy.attn_sparsity)
    # a short row's surplus choices are the newest, whose place on the host is not filled yet; they weigh nothing
    view.slot("choices").view(torch.int64).copy_(value_rows(s, positions[:, :-1].clamp(max=old - 1)))
    view.slot("probs").view(torch.float32).view(*q_GPH.shape[:2], -1).copy_(probs[:, :, :-1])
    value_G1H = by_grain(view.slot("fresh"), s, s.streamed, 1, view.block.cache_dtype)[:, 1]
    out_GPH.copy_(weighted_values(probs[:, :, -1:], value_G1H, q_GPH, packing))


def attend(view: TaskView) -> None:
    """Attention on the host, over keys and values where they live."""
    at = view.column * view.segment.disk_row_bytes
    new_rows = view.read("cache_out")
    if new_rows is not None:
        view.slot("cache_relay")[at : at + len(new_rows)].copy_(new_rows)
    begins = view.read("seats_host")
    if begins is not None:
        view.seats.sit_on_host(begins.view(torch.int64))
    view.slide_on_host()
    for part in _on_host(view):
        part(view.place + 1)


def _on_host(view: TaskView) -> list[HostAttention]:
    """Attention over the part of the cache that lives on the host, and over what came from the disk."""
    task = view.task
    place = (task.j, task.k, view.slot_number(task.reads[0]), view.slot_number(task.writes[0]))
    if place in view.block.on_host:
        return view.block.on_host[place]
    s, policy = view.segment, view.placement.policy
    rows, first, found = min(view.old_tokens + 1, s.capacity), s.num_grains - s.hosted, []
    home, from_disk = view.read("cache_cpu"), view.read("cache_out") is not None
    if home is not None:
        found.append(by_grain(home, s, s.grains[1], s.capacity, view.block.cache_dtype)[s.shared :])  # of a ring, a lap
    if from_disk:
        found.append(by_token(view.slot("cache_relay"), s, rows, s.disk_row_bytes, view.block.cache_dtype))
    queries = view.source().view(view.block.dtype).view(s.hosted, -1, s.head_dim)
    out = view.target().view(view.block.dtype).view(s.hosted, -1, s.head_dim)
    rule, at, parts = view.host_rule, 0, []
    pads = view.host_unread[first:]
    for pairs in found:
        span = slice(at, at + len(pairs))
        given = queries[span], pairs_of(pairs), pads[span], rule, out[span], view.block.num_threads
        laps = 1 if view.ring is None else 2
        parts.append(HostAttention(*given, view.block.cache_packing, policy.attn_sparsity, first + at, laps))
        at += len(pairs)
    if not from_disk:  # what comes from there is longer each time
        view.block.on_host[place] = parts
    return parts


def layer_attention(view: TaskView, hidden: Tensor, rows: slice) -> Tensor:
    """(B, S, N x H): what the host and `project` left, with the values since loaded, or attention here and now."""
    ready = view.read("attention")
    batch, s = view.batch, view.segment
    if ready is not None:
        done_GPH = ready.view(view.block.dtype).view(s.num_grains, -1, s.head_dim)
        if view.read("values") is not None:
            done_GPH = _with_values(view, done_GPH)
        return done_GPH.view(len(batch.rows), 1, -1)
    if view.door is not None:
        return attention_at_door(view, hidden)
    q, k, v = view.block.family.project(layer_weights(view), hidden, view.positions()[rows], view.layer.depth)
    _keep(view, k, v, rows.start)
    if view.task.i == 0:
        return _over_the_prompt(view, q, k, v, rows)
    cached = _cached(view, view.read("cache_gpu"), view.read("cache_ring"))
    if len(cached) == 1:  # queries as the projection left them
        done = _attend_cached(view, q[:, 0].unflatten(1, (k.shape[2], -1)), cached[0], 0)
        return done.reshape(len(batch.rows), 1, -1)
    q_GPH, parts, at = q.reshape(s.num_grains, -1, s.head_dim), [], 0
    for pairs in cached:
        parts.append(_attend_cached(view, q_GPH[at : at + len(pairs)], pairs, at))
        at += len(pairs)
    return torch.cat(parts).view(len(batch.rows), 1, -1)


def _over_the_prompt(view: TaskView, q: Tensor, k: Tensor, v: Tensor, rows: slice) -> Tensor:
    """(B, S, N x H) of these rows, by the mask that all layers share or, with a window, the layer's own."""
    batch, rule = view.batch, view.rule
    mask, causal = None if batch.prompt_mask is None else batch.prompt_mask[rows], view.block.family.math.causal
    pads = batch.pads[rows] if mask is not None else batch.pads[:1]  # nothing is padded: one mask for all
    return attention_by_rule(q, k, v, pads, mask, rule, causal=causal)


def _with_values(view: TaskView, part_GPH: Tensor) -> Tensor:
    """What `project` left of the streamed grains, and their chosen values."""
    s, done_GPH = view.segment, part_GPH.clone()
    to = done_GPH[s.grains[0] :]
    probs = view.slot("probs").view(torch.float32).view(*to.shape[:2], -1)
    values = view.slot("values").view(view.block.cache_dtype).view(s.streamed, probs.shape[2], -1)
    to += weighted_values(probs, values, to, view.block.cache_packing)
    return done_GPH


def _cached(view: TaskView, resident: Tensor | None, ring: Tensor | None) -> list[Tensor]:
    """Keys and values on the gpu (grains, 2, capacity, H): resident, streamed from the host, streamed from disk."""
    s = view.segment
    found = []
    if resident is not None:
        found.append(by_grain(resident, s, s.grains[0], s.capacity, view.block.cache_dtype))
    if ring is not None:
        cpu, disk = s.streamed_by_tier
        from_host, from_disk = split_by_home(ring, s, cpu, s.capacity)
        if cpu:
            parts = view.placement.streamed_parts
            found.append(by_grain(from_host, s, cpu, s.capacity, view.block.cache_dtype, parts))
        if disk:
            found.append(by_token(from_disk, s, s.capacity, disk_pair_bytes(s), view.block.cache_dtype))
    return found


def _attend_cached(view: TaskView, q: Tensor, pairs: Tensor, first: int) -> Tensor:
    """(G, P, H) of queries in that shape, or (B, K, P, H) of all grains."""
    rule, newest, pairs = view.rule, view.newest, pairs_of(pairs)
    pads, packing = view.unread[first : first + len(pairs)], view.block.cache_packing
    sparsity = view.placement.policy.attn_sparsity
    context = newest + 1 if pairs.is_cuda else view.place + 1
    if sparsity < 1:
        return sparse_attention(q.flatten(0, -3), pairs, pads, context, rule, sparsity, packing, first)
    if packing is None and rule.is_plain_but_sinks and compiles_for(pairs):
        return decode_attention(q, pairs, pads, newest, rule.scale, rule.sinks_GP(first, len(pairs)))
    if not rule.is_plain:
        return scored_attention(q.flatten(0, -3), pairs, pads, context, rule, packing, first)
    if packing:
        return decode_attention_packed(q.flatten(0, -3), pairs, packing, pads, newest, rule.scale)
    return decode_attention(q, pairs, pads, newest, rule.scale)


def _keep(view: TaskView, k_BSKH: Tensor, v_BSKH: Tensor, first_row: int = 0) -> None:
    """New keys and values of the rows from ``first_row`` on into the cache on the gpu, and into what leaves it.

    Of a prompt that is longer than the cache, the last ones.
    """
    s, new, heads = view.segment, view.kept_tokens, k_BSKH.shape[2]
    first = -first_row * heads  # grain of the cache's beginning, counted from the first one given
    k_BSKH, v_BSKH = (view.block.stored(x[:, -new:]) for x in (k_BSKH, v_BSKH))
    place = view.kept_at if view.task.i else None
    if first_row == 0:
        view.note("cache", "gpu", s.grains[0] * new * s.pair_bytes)
    for cache in _cached(view, view.write("cache_gpu"), view.write("cache_ring")):
        put_grains(cache, k_BSKH, v_BSKH, first, place)
        first += len(cache)
    fresh = view.write("fresh")
    if fresh is not None:
        on_host, on_disk = split_by_home(fresh, s, s.grains[1], new)
        gpu, cpu, disk = s.grains
        first = gpu - first_row * heads
        put_grains(by_grain(on_host, s, cpu, new, view.block.cache_dtype), k_BSKH, v_BSKH, first)
        if disk:
            first += cpu
            put_grains(by_token(on_disk, s, new, disk_pair_bytes(s), view.block.cache_dtype), k_BSKH, v_BSKH, first)
