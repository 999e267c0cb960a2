"""Handlers of attention: its first half on the gpu, its part on the host, and what a layer makes of both.

Letters as in `attention`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flexplan.graph import Task
from flexplan_runtime.attention import decode_attention, prompt_attention
from flexplan_runtime.hidden import take_up
from flexplan_runtime.hostcall import HostAttention
from flexplan_runtime.job import Job
from flexplan_runtime.kvcache import by_grain, by_token, disk_pair_bytes, put_grains, split_by_home, value_rows
from flexplan_runtime.packedattention import decode_attention_packed
from flexplan_runtime.sparseattention import (
    attention_weights,
    choose,
    sparse_attention,
    weighted_values,
)
from flexplan_runtime.views import Views


def project(job: Job, task: Task, views: Views) -> None:
    """Queries, keys and values; attention over what is on the gpu; what the second half needs of the rest."""
    s, hidden = job.segment(task), take_up(job, task, views)
    q, k, v = job.family.project(job.layer_weights(task), hidden, job.positions(task))
    _keep(job, task, views, k, v)
    q_GPH = q.reshape(s.num_grains, -1, s.head_dim)
    queries = views.write("queries")
    if queries is not None:
        queries.view(job.dtype).view(s.hosted, -1, s.head_dim).copy_(q_GPH[s.num_grains - s.hosted :])
    out = views.write("attention")
    if out is None:
        return
    out_GPH, chooses, at = out.view(job.dtype).view(-1, *q_GPH.shape[1:]), views.write("choices") is not None, 0
    for pairs in _cached(job, task, views.read("cache_gpu"), None if chooses else views.read("cache_ring")):
        out_GPH[at : at + len(pairs)] = _attend_cached(job, task, q_GPH[at : at + len(pairs)], pairs, at)
        at += len(pairs)
    if chooses:
        _choose(job, task, views, q_GPH[at:], out_GPH[at:])


def _choose(job: Job, task: Task, views: Views, q_GPH: Tensor, out_GPH: Tensor) -> None:
    """Of the streamed grains: which old values count and how much, and the newest one's part of attention."""
    s, old, batch = job.segment(task), job.old_tokens(task), job.batches[task.k]
    pads, newest, packing = batch.grain_pads[s.grains[0] :], batch.position, job.cache_packing
    keys_GTH = by_grain(views.slot("cache_ring"), s, s.streamed, s.capacity, job.cache_dtype, 1)[:, 0, : old + 1]
    chances = attention_weights(q_GPH, keys_GTH, pads, newest, job.family.scale, packing)
    positions, chances = choose(chances, pads, newest, job.placement.policy.attn_sparsity)
    # a short row's surplus choices are the newest, whose place on the host is not filled yet; they weigh nothing
    views.slot("choices").view(torch.int64).copy_(value_rows(s, positions[:, :-1].clamp(max=old - 1)))
    views.slot("chances").view(torch.float32).view(*q_GPH.shape[:2], -1).copy_(chances[:, :, :-1])
    value_G1H = by_grain(views.slot("fresh"), s, s.streamed, 1, job.cache_dtype)[:, 1]
    out_GPH.copy_(weighted_values(chances[:, :, -1:], value_G1H, q_GPH, packing))


def attend(job: Job, task: Task, views: Views) -> None:
    """Attention on the host, over keys and values where they live."""
    s, old = job.segment(task), job.old_tokens(task)
    new_rows = views.read("cache_out")
    if new_rows is not None:
        views.slot("cache_relay")[old * s.disk_row_bytes :].copy_(new_rows)
    for part in _on_host(job, task, views):
        part(old + 1)


def _on_host(job: Job, task: Task, views: Views) -> list[HostAttention]:
    """Attention over the part of the cache that lives on the host, and over what came from the disk."""
    slots = (job.placement.buffers[a.buffer].slot(a.index) for a in (task.reads[0], task.writes[0]))
    place = (task.j, task.k, *slots)
    if place in job.on_host:
        return job.on_host[place]
    s, policy = job.segment(task), job.placement.policy
    context, first, found = job.old_tokens(task) + 1, s.num_grains - s.hosted, []
    home, from_disk = views.read("cache_cpu"), views.read("cache_out") is not None
    if home is not None:
        found.append(by_grain(home, s, s.grains[1], s.capacity, job.cache_dtype)[s.shared :])
    if from_disk:
        found.append(by_token(views.slot("cache_relay"), s, context, s.disk_row_bytes, job.cache_dtype))
    queries = job.arena_bytes(task.reads[0]).view(job.dtype).view(s.hosted, -1, s.head_dim)
    out = job.arena_bytes(task.writes[0]).view(job.dtype).view(s.hosted, -1, s.head_dim)
    pads, at, parts = job.batches[task.k].host_grain_pads[first:], 0, []
    for pairs in found:
        span = slice(at, at + len(pairs))
        given = queries[span], pairs, pads[span], job.family.scale, out[span], job.num_threads
        parts.append(HostAttention(*given, job.cache_packing, policy.attn_sparsity))
        at += len(pairs)
    if not from_disk:  # what comes from there is longer each time
        job.on_host[place] = parts
    return parts


def layer_attention(job: Job, task: Task, views: Views, hidden: Tensor, rows: slice) -> Tensor:
    """(B, S, N x H): what the host and `project` left, with the values since loaded, or attention here and now."""
    ready = views.read("attention")
    batch, s = job.batches[task.k], job.segment(task)
    if ready is not None:
        done_GPH = ready.view(job.dtype).view(s.num_grains, -1, s.head_dim)
        if views.read("values") is not None:
            done_GPH = _with_values(job, task, views, done_GPH)
        return done_GPH.view(len(batch.rows), 1, -1)
    q, k, v = job.family.project(job.layer_weights(task), hidden, job.positions(task)[rows])
    _keep(job, task, views, k, v, rows.start)
    if task.i == 0:
        mask = None if batch.prompt_mask is None else batch.prompt_mask[rows]
        return prompt_attention(q, k, v, mask, job.family.scale)
    cached = _cached(job, task, views.read("cache_gpu"), views.read("cache_ring"))
    if len(cached) == 1:  # queries as the projection left them
        done = _attend_cached(job, task, q[:, 0].unflatten(1, (k.shape[2], -1)), cached[0], 0)
        return done.reshape(len(batch.rows), 1, -1)
    q_GPH, parts, at = q.reshape(s.num_grains, -1, s.head_dim), [], 0
    for pairs in cached:
        parts.append(_attend_cached(job, task, q_GPH[at : at + len(pairs)], pairs, at))
        at += len(pairs)
    return torch.cat(parts).view(len(batch.rows), 1, -1)


def _with_values(job: Job, task: Task, views: Views, part_GPH: Tensor) -> Tensor:
    """What `project` left of the streamed grains, and their chosen values."""
    s, done_GPH = job.segment(task), part_GPH.clone()
    to = done_GPH[s.grains[0] :]
    chances = views.slot("chances").view(torch.float32).view(*to.shape[:2], -1)
    values = views.slot("values").view(job.cache_dtype).view(s.streamed, chances.shape[2], -1)
    to += weighted_values(chances, values, to, job.cache_packing)
    return done_GPH


def _cached(job: Job, task: Task, resident: Tensor | None, ring: Tensor | None) -> list[Tensor]:
    """Keys and values on the gpu (grains, 2, capacity, H): resident, streamed from the host, streamed from disk."""
    s = job.segment(task)
    found = []
    if resident is not None:
        found.append(by_grain(resident, s, s.grains[0], s.capacity, job.cache_dtype))
    if ring is not None:
        cpu, disk = s.streamed_by_tier
        from_host, from_disk = split_by_home(ring, s, cpu, s.capacity)
        if cpu:
            parts = job.placement.streamed_parts
            found.append(by_grain(from_host, s, cpu, s.capacity, job.cache_dtype, parts))
        if disk:
            found.append(by_token(from_disk, s, s.capacity, disk_pair_bytes(s), job.cache_dtype))
    return found


def _attend_cached(job: Job, task: Task, q: Tensor, pairs: Tensor, first: int) -> Tensor:
    """(G, P, H) of queries in that shape, or (B, K, P, H) of all grains."""
    batch = job.batches[task.k]
    pads, packing = batch.grain_pads[first : first + len(pairs)], job.cache_packing
    sparsity = job.placement.policy.attn_sparsity
    if sparsity < 1:
        context = batch.position + 1 if pairs.is_cuda else job.old_tokens(task) + 1
        return sparse_attention(q.flatten(0, -3), pairs, pads, context, job.family.scale, sparsity, packing)
    if packing:
        return decode_attention_packed(q.flatten(0, -3), pairs, packing, pads, batch.position, job.family.scale)
    return decode_attention(q, pairs, pads, batch.position, job.family.scale)


def _keep(job: Job, task: Task, views: Views, k_BSKH: Tensor, v_BSKH: Tensor, first_row: int = 0) -> None:
    """New keys and values of the rows from ``first_row`` on into the cache on the gpu, and into what leaves it."""
    s, new, heads = job.segment(task), k_BSKH.shape[1], k_BSKH.shape[2]
    first = -first_row * heads  # grain of the cache's beginning, counted from the first one given
    k_BSKH, v_BSKH = job.stored(k_BSKH), job.stored(v_BSKH)
    place = job.batches[task.k].position if task.i else None
    if first_row == 0:
        job.note(task, "cache", "gpu", s.grains[0] * new * s.pair_bytes)
    for cache in _cached(job, task, views.write("cache_gpu"), views.write("cache_ring")):
        put_grains(cache, k_BSKH, v_BSKH, first, place)
        first += len(cache)
    fresh = views.write("fresh")
    if fresh is not None:
        on_host, on_disk = split_by_home(fresh, s, s.grains[1], new)
        gpu, cpu, disk = s.grains
        first = gpu - first_row * heads
        put_grains(by_grain(on_host, s, cpu, new, job.cache_dtype), k_BSKH, v_BSKH, first)
        if disk:
            first += cpu
            put_grains(by_token(on_disk, s, new, disk_pair_bytes(s), job.cache_dtype), k_BSKH, v_BSKH, first)
