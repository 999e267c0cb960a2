"""Handlers: what a task of each kind does with the bytes it declares.

A handler is given a ``Views`` of its task and nothing else of memory: bytes that the task does not declare
cannot be reached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from flexplan.errors import GraphError
from flexplan.graph import Access, Task
from flexplan.tensors import ATTENTION, EMBED, HEAD
from flexplan_runtime.attention import decode_attention, host_attention, prompt_attention
from flexplan_runtime.gather import gather_rows, merge_rows
from flexplan_runtime.job import Job
from flexplan_runtime.kvcache import (
    by_grain,
    by_token,
    disk_pair_bytes,
    grain_rows,
    put_grains,
    split_by_home,
    token_rows,
    value_rows,
)
from flexplan_runtime.moves import fetch_rows, move
from flexplan_runtime.packedattention import decode_attention_packed, host_attention_packed
from flexplan_runtime.packedweights import unpack
from flexplan_runtime.sparseattention import (
    attention_weights,
    choose,
    host_sparse_attention,
    sparse_attention,
    weighted_values,
)


class Views:
    """The declared bytes of one task."""

    def __init__(self, job: Job, task: Task) -> None:
        self.job = job
        self.task = task

    def read(self, buffer: str) -> Tensor | None:
        """Bytes that the task reads of a buffer, None where it reads none."""
        return self._bytes(self.task.reads, buffer)

    def write(self, buffer: str) -> Tensor | None:
        """Bytes that the task writes."""
        return self._bytes(self.task.writes, buffer)

    def slot(self, buffer: str) -> Tensor:
        """All bytes of a slot that the task reads or writes, as one range."""
        found = [a for a in (*self.task.reads, *self.task.writes) if a.buffer.startswith(buffer)]
        if not found:
            raise GraphError("FP806", f"{self.task.name} declares no {buffer}", fix="correct the schedule")
        lo, hi = min(a.lo for a in found), max(a.hi for a in found)
        return self.job.arena_bytes(found[0]._replace(lo=lo, hi=hi))

    def _bytes(self, accesses: tuple[Access, ...], buffer: str) -> Tensor | None:
        found = next((a for a in accesses if a.buffer == buffer), None)
        return None if found is None else self.job.arena_bytes(found)


Handler = Callable[[Job, Task, Views], None]


# -- moving bytes ----------------------------------------------------------------------------------------------
def _transfer(job: Job, task: Task, views: Views) -> None:
    """The bytes read, one range behind the other, into the bytes written."""
    out = [job.arena_bytes(a) for a in task.writes]
    at = 0
    for access in task.reads:
        data = job.arena_bytes(access)
        size = min(len(data), len(out[0]) - at)  # a relay is padded for the disk
        move(job.ledger, task, out[0][at : at + size], data[:size])
        at += size


def _read_disk(job: Job, task: Task, views: Views) -> None:
    file, offset = job.disk_range(task.reads[0])
    out = job.arena_bytes(task.writes[0])
    file.read(offset, out)
    job.ledger.count("read_bytes", task.i, len(out))


def _write_disk(job: Job, task: Task, views: Views) -> None:
    file, offset = job.disk_range(task.writes[0])
    data = job.arena_bytes(task.reads[0])
    file.write(offset, data)
    job.ledger.count("write_bytes", task.i, len(data))


def write_cache(job: Job, task: Task, views: Views) -> None:
    """Rows of new keys and values on to disk."""
    _write_disk(job, task, views)
    s = job.segment(task)
    job.note(task, "cache", "disk", job.placement.new_tokens(task.i, task.k) * disk_pair_bytes(s))


def write_hidden(job: Job, task: Task, views: Views) -> None:
    """Hidden states on to disk."""
    _write_disk(job, task, views)
    job.note(task, "act", "disk", job.placement.hidden_parts(task.i, task.k)[2])


def store_hidden(job: Job, task: Task, views: Views) -> None:
    """Hidden states off the gpu: the host's part to its home, the disk's to the relay."""
    data, at = job.arena_bytes(task.reads[0]), 0
    for access in task.writes:
        out = job.arena_bytes(access)
        size = min(len(out), len(data) - at)
        move(job.ledger, task, out[:size], data[at : at + size])
        at += size
        if access.buffer == "hidden_cpu":
            job.note(task, "act", "cpu", size)


def load_cache(job: Job, task: Task, views: Views) -> None:
    """Old keys and values, or keys alone, of the grains that the gpu attends over by streaming them."""
    s, old, parts = job.segment(task), job.old_tokens(task), job.placement.streamed_parts
    ring = split_by_home(job.arena_bytes(task.writes[0]), s, s.streamed_by_tier[0], s.capacity)
    home, relay = views.read("cache_cpu"), views.read("cache_relay")
    if home is not None:
        to = by_grain(ring[0], s, s.streamed_by_tier[0], s.capacity, job.cache_dtype, parts)
        source = by_grain(home, s, s.streamed_by_tier[0], s.capacity, job.cache_dtype)[:, :parts]
        move(job.ledger, task, grain_rows(to, 0, old), grain_rows(source, 0, old))
    if relay is not None:
        to = token_rows(ring[1], s, old, disk_pair_bytes(s), job.cache_dtype)
        move(job.ledger, task, to, token_rows(relay, s, old, s.disk_row_bytes, job.cache_dtype))


def load_values(job: Job, task: Task, views: Views) -> None:
    """The values that `project` chose among the old ones, from where they live."""
    rows = views.slot("choices").view(torch.int64)
    fetch_rows(job.ledger, task, views.slot("values"), views.slot("cache_cpu"), rows, job.segment(task).vector_bytes)


def store_cache(job: Job, task: Task, views: Views) -> None:
    """New keys and values to the host's cache, and to rows for the disk."""
    s, old, new = job.segment(task), job.old_tokens(task), job.placement.new_tokens(task.i, task.k)
    fresh = split_by_home(job.arena_bytes(task.reads[0]), s, s.grains[1], new)
    home, out = views.write("cache_cpu"), views.write("cache_out")
    if home is not None:
        to = by_grain(home, s, s.grains[1], s.capacity, job.cache_dtype)
        source = by_grain(fresh[0], s, s.grains[1], new, job.cache_dtype)
        move(job.ledger, task, grain_rows(to, old, new), grain_rows(source, 0, new))
        job.note(task, "cache", "cpu", source.nbytes)
    if out is not None:
        source = token_rows(fresh[1], s, new, disk_pair_bytes(s), job.cache_dtype)
        move(job.ledger, task, token_rows(out, s, new, s.disk_row_bytes, job.cache_dtype), source)


# -- weights ---------------------------------------------------------------------------------------------------
def open_weight(job: Job, task: Task, views: Views) -> None:
    """A layer's weights unpacked into whole tensors; what is not packed is copied beside them."""
    w, slot = job.placement.weights[task.j], views.slot("weights_open")
    for piece, data in job.stored_pieces(task):
        whole = job.whole_view(slot, w, piece.tensor)
        unpack(data, piece.tensor, whole[piece.row_lo : piece.row_hi])


# -- token ids and rows ------------------------------------------------------------------------------------------
def gather(job: Job, task: Task, views: Views) -> None:
    """Rows of the token table that are off the gpu."""
    ids = job.arena_bytes(task.reads[0]).view(torch.int64)
    gather_rows(job, task, ids, job.arena_bytes(task.writes[0]))


# -- compute -------------------------------------------------------------------------------------------------------
def compute(job: Job, task: Task, views: Views) -> None:
    """A layer of one micro-batch, or what is left of it after `project`."""
    layer = job.layer(task)
    if layer.role == EMBED:
        _embed(job, task, views)
    elif layer.role == HEAD:
        _head(job, task, views)
    else:
        hidden_BSD = _take_up(job, task, views)
        for rows in job.row_spans(task):
            hidden_BSD[rows] = _transform(job, task, views, hidden_BSD[rows], rows)
        _put_down(job, task, views)


def _transform(job: Job, task: Task, views: Views, hidden_BSD: Tensor, rows: slice) -> Tensor:
    """These rows through a transformer layer, or a part of it."""
    layer, weights = job.layer(task), job.layer_weights(task)
    if layer.attends:
        hidden_BSD = job.family.merge(weights, hidden_BSD, _attention(job, task, views, hidden_BSD, rows))
    return hidden_BSD if layer.role == ATTENTION else job.family.mlp(weights, hidden_BSD)


def project(job: Job, task: Task, views: Views) -> None:
    """Queries, keys and values; attention over what is on the gpu; what the second half needs of the rest."""
    s, hidden = job.segment(task), _take_up(job, task, views)
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
    context, first = old + 1, s.num_grains - s.hosted
    parts = []
    home = views.read("cache_cpu")
    if home is not None:
        pairs = by_grain(home, s, s.grains[1], s.capacity, job.cache_dtype)[s.shared :, :, :context]
        parts.append((len(pairs), pairs))
    new_rows = views.read("cache_out")
    if new_rows is not None:
        views.slot("cache_relay")[old * s.disk_row_bytes :].copy_(new_rows)
        parts.append((s.grains[2], by_token(views.slot("cache_relay"), s, context, s.disk_row_bytes, job.cache_dtype)))
    queries = job.arena_bytes(task.reads[0]).view(job.dtype).view(s.hosted, -1, s.head_dim)
    out = job.arena_bytes(task.writes[0]).view(job.dtype).view(s.hosted, -1, s.head_dim)
    pads, at = job.batches[task.k].host_grain_pads[first:], 0
    for grains, pairs in parts:
        span = slice(at, at + grains)
        _attend_on_host(job, queries[span], pairs, pads[span], out[span])
        at += grains


def _attend_on_host(job: Job, q_GPH: Tensor, pairs: Tensor, pads: Tensor, out: Tensor) -> None:
    sparsity = job.placement.policy.attn_sparsity
    if sparsity < 1:
        host_sparse_attention(q_GPH, pairs, pads, job.family.scale, sparsity, out, job.num_threads, job.cache_packing)
    elif job.cache_packing:
        host_attention_packed(q_GPH, pairs, job.cache_packing, pads, job.family.scale, out, job.num_threads)
    else:
        host_attention(q_GPH, pairs, pads, job.family.scale, out, job.num_threads)


def _embed(job: Job, task: Task, views: Views) -> None:
    job.advance(task)
    hidden_BSD, positions_BS, gathered = _working(job, task, views), job.positions(task), views.read("rows")
    ids_BS = job.arena_bytes(next(a for a in task.reads if a.buffer == "ids")).view(torch.int64)
    ids_BS = ids_BS.view(hidden_BSD.shape[:2])
    found_BSE = None if gathered is None else gathered.view(job.dtype).view(*ids_BS.shape, -1)
    for rows in job.row_spans(task):
        rows_BSE = merge_rows(job, task, ids_BS[rows], None if found_BSE is None else found_BSE[rows])
        hidden_BSD[rows] = job.family.embed(job.layer_weights(task), rows_BSE, positions_BS[rows])
    _put_down(job, task, views)


def _head(job: Job, task: Task, views: Views) -> None:
    hidden, batch = _take_up(job, task, views), job.batches[task.k]
    logits = job.family.head(job.layer_weights(task), hidden[:, -1])
    chosen = job.sampling.choose(logits, batch.rows, task.i)
    if len(job.stop_ids):
        chosen = torch.where(batch.stopped, job.pad_id, chosen)
        batch.stopped |= torch.isin(chosen, job.stop_ids)
    views.slot("ids").view(torch.int64).copy_(chosen)


def _attention(job: Job, task: Task, views: Views, hidden: Tensor, rows: slice) -> Tensor:
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
    q_GPH, parts, at = q.reshape(s.num_grains, -1, s.head_dim), [], 0
    for pairs in _cached(job, task, views.read("cache_gpu"), views.read("cache_ring")):
        parts.append(_attend_cached(job, task, q_GPH[at : at + len(pairs)], pairs, at))
        at += len(pairs)
    done = parts[0] if len(parts) == 1 else torch.cat(parts)
    return done.reshape(len(batch.rows), 1, -1)


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


def _attend_cached(job: Job, task: Task, q_GPH: Tensor, pairs: Tensor, first: int) -> Tensor:
    batch = job.batches[task.k]
    pads, sparsity = batch.grain_pads[first : first + len(pairs)], job.placement.policy.attn_sparsity
    if sparsity < 1:
        context = batch.position + 1 if pairs.is_cuda else job.old_tokens(task) + 1
        return sparse_attention(q_GPH, pairs, pads, context, job.family.scale, sparsity, job.cache_packing)
    if job.cache_packing:
        return decode_attention_packed(q_GPH, pairs, job.cache_packing, pads, batch.position, job.family.scale)
    return decode_attention(q_GPH, pairs, pads, batch.position, job.family.scale)


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


def _take_up(job: Job, task: Task, views: Views) -> Tensor:
    """Hidden states (B, S, D) in the working slot; their part on the gpu comes from its home."""
    home = views.read("hidden_gpu")
    if home is not None:
        _slot(task, views)[: len(home)].copy_(home)
    return _working(job, task, views)


def _working(job: Job, task: Task, views: Views) -> Tensor:
    """The working slot as (B, S, D)."""
    shape = (len(job.batches[task.k].rows), -1, job.placement.shape.hidden_size)
    return _slot(task, views).view(job.dtype).view(shape)


def _slot(task: Task, views: Views) -> Tensor:
    return views.slot("hidden_decode" if task.i else "hidden_prefill")


def _put_down(job: Job, task: Task, views: Views) -> None:
    """Of what is now in the working slot, the part that stays into its home on the gpu."""
    home = views.write("hidden_gpu")
    if home is not None:
        home.copy_(_slot(task, views)[: len(home)])
    job.note(task, "act", "gpu", job.placement.hidden_parts(task.i, task.k)[0])


HANDLERS: Mapping[str, Handler] = {
    "read_weight": _read_disk,
    "stage_weight": _transfer,
    "load_weight": _transfer,
    "open_weight": open_weight,
    "gather": gather,
    "load_rows": _transfer,
    "load_ids": _transfer,
    "read_hidden": _read_disk,
    "load_hidden": _transfer,
    "read_cache": _read_disk,
    "load_cache": load_cache,
    "load_values": load_values,
    "project": project,
    "send_query": _transfer,
    "attend": attend,
    "load_attention": _transfer,
    "compute": compute,
    "store_cache": store_cache,
    "write_cache": write_cache,
    "store_hidden": store_hidden,
    "write_hidden": write_hidden,
    "store_ids": _transfer,
}
