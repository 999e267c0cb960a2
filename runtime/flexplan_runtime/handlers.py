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
from flexplan.tensors import ATTENTION, EMBED, HEAD, MLP
from flexplan_runtime.attention import grain_attention, prompt_attention
from flexplan_runtime.gather import gather_rows, merge_rows
from flexplan_runtime.job import Job
from flexplan_runtime.kvcache import by_grain, by_token, grains_of
from flexplan_runtime.moves import move


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

    def disk(self, accesses: tuple[Access, ...], buffer: str) -> Access:
        """The access of a buffer on disk."""
        return next(a for a in accesses if a.buffer == buffer)

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


def store_hidden(job: Job, task: Task, views: Views) -> None:
    """Hidden states off the gpu: the host's part to its home, the disk's to the relay."""
    data, at = job.arena_bytes(task.reads[0]), 0
    for access in task.writes:
        out = job.arena_bytes(access)
        size = min(len(out), len(data) - at)
        move(job.ledger, task, out[:size], data[at : at + size])
        at += size


def load_cache(job: Job, task: Task, views: Views) -> None:
    """Old keys and values of the grains that the gpu attends over by streaming them."""
    s, old = job.segment(task), job.old_tokens(task)
    ring = by_grain(job.arena_bytes(task.writes[0]), s.streamed, s.capacity, s.head_dim, job.dtype)
    on_host = s.grains[1]
    home, relay = views.read("cache_cpu"), views.read("cache_relay")
    if home is not None:
        move(job.ledger, task, ring[:on_host, :, :old], by_grain(home, on_host, s.capacity, s.head_dim, job.dtype)[:, :, :old])
    if relay is not None:
        move(job.ledger, task, ring[on_host:, :, :old], by_token(relay, s, old, job.dtype))


def store_cache(job: Job, task: Task, views: Views) -> None:
    """New keys and values to the host's cache, and to rows for the disk."""
    s, old, new = job.segment(task), job.old_tokens(task), job.placement.new_tokens(task.i, task.k)
    fresh = by_grain(job.arena_bytes(task.reads[0]), s.off_gpu, new, s.head_dim, job.dtype)
    on_host = s.grains[1]
    home, out = views.write("cache_cpu"), views.write("cache_out")
    if home is not None:
        move(job.ledger, task, by_grain(home, on_host, s.capacity, s.head_dim, job.dtype)[:, :, old : old + new], fresh[:on_host])
    if out is not None:
        move(job.ledger, task, by_token(out, s, new, job.dtype), fresh[on_host:])


# -- token ids and rows ------------------------------------------------------------------------------------------
def gather(job: Job, task: Task, views: Views) -> None:
    """Rows of the token table that are off the gpu."""
    ids = job.arena_bytes(task.reads[0]).view(torch.int64)
    gather_rows(job, task, ids, job.arena_bytes(task.writes[0]))


# -- compute -------------------------------------------------------------------------------------------------------
def compute(job: Job, task: Task, views: Views) -> None:
    """A layer of one micro-batch, or what is left of it after attention on the host."""
    layer = job.layer(task)
    if layer.role == EMBED:
        _embed(job, task, views)
    elif layer.role == HEAD:
        _head(job, task, views)
    else:
        hidden = _take_up(job, task, views)
        if layer.attends:
            hidden = job.family.merge(job.layer_weights(task), hidden, _attention(job, task, views, hidden))
        if layer.role != ATTENTION:
            hidden = job.family.mlp(job.layer_weights(task), hidden)
        _put_down(job, task, views, hidden)


def project(job: Job, task: Task, views: Views) -> None:
    """Queries, keys and values; attention over what is on the gpu; the rest on its way to the host."""
    s, hidden = job.segment(task), _take_up(job, task, views)
    q, k, v = job.family.project(job.layer_weights(task), hidden, job.positions(task))
    pairs = grains_of(k, v)
    _keep(job, task, views, pairs)
    q_GPH = q.reshape(s.num_grains, -1, s.head_dim)
    queries = views.write("queries")
    if queries is not None:
        queries.view(job.dtype).view(s.hosted, -1, s.head_dim).copy_(q_GPH[s.grains[0] :])
    resident, out = views.read("cache_gpu"), views.write("attention")
    if resident is not None and out is not None:
        done = _attend_cached(job, task, q_GPH[: s.grains[0]], resident, s.grains[0], 0)
        out.view(job.dtype).view(s.grains[0], -1, s.head_dim).copy_(done)


def attend(job: Job, task: Task, views: Views) -> None:
    """Attention on the host, over keys and values where they live."""
    s, old = job.segment(task), job.old_tokens(task)
    context = old + 1
    parts = []
    home = views.read("cache_cpu")
    if home is not None:
        parts.append((s.grains[1], by_grain(home, s.grains[1], s.capacity, s.head_dim, job.dtype)[:, :, :context]))
    new_rows = views.read("cache_out")
    if new_rows is not None:
        views.slot("cache_relay")[old * s.disk_row_bytes :].copy_(new_rows)
        parts.append((s.grains[2], by_token(views.slot("cache_relay"), s, context, job.dtype)))
    queries = job.arena_bytes(task.reads[0]).view(job.dtype).view(s.hosted, -1, s.head_dim)
    out = job.arena_bytes(task.writes[0]).view(job.dtype).view(s.hosted, -1, s.head_dim)
    mask, at = job.batches[task.k].host_key_mask, 0
    for grains, pairs in parts:
        first = s.grains[0] + at
        visible = None if mask is None else mask[first : first + grains, :context]
        done = grain_attention(queries[at : at + grains], pairs[:, 0], pairs[:, 1], visible, job.family.scale)
        out[at : at + grains] = done
        at += grains


def _embed(job: Job, task: Task, views: Views) -> None:
    placement, batch = job.placement, job.batches[task.k]
    shape = (len(batch.rows), placement.new_tokens(task.i, task.k))
    ids = job.arena_bytes(next(a for a in task.reads if a.buffer == "ids")).view(torch.int64).view(shape)
    rows = merge_rows(job, task, ids, views.read("rows"))
    _put_down(job, task, views, job.family.embed(job.layer_weights(task), rows, job.positions(task)))


def _head(job: Job, task: Task, views: Views) -> None:
    hidden, batch = _take_up(job, task, views), job.batches[task.k]
    logits = job.family.head(job.layer_weights(task), hidden[:, -1])
    chosen = job.sampling.choose(logits, batch.rows, task.i)
    if len(job.stop_ids):
        chosen = torch.where(batch.stopped, job.pad_id, chosen)
        batch.stopped |= torch.isin(chosen, job.stop_ids)
    views.slot("ids").view(torch.int64).copy_(chosen)


def _attention(job: Job, task: Task, views: Views, hidden: Tensor) -> Tensor:
    """(B, S, N x H): what the host and `project` left, or attention here and now."""
    ready = views.read("attention")
    batch, s = job.batches[task.k], job.segment(task)
    if ready is not None:
        return ready.view(job.dtype).view(len(batch.rows), 1, -1)
    q, k, v = job.family.project(job.layer_weights(task), hidden, job.positions(task))
    pairs = grains_of(k, v)
    _keep(job, task, views, pairs)
    if task.i == 0:
        return prompt_attention(q, k, v, batch.prompt_mask, job.family.scale)
    q_GPH, parts, at = q.reshape(s.num_grains, -1, s.head_dim), [], 0
    for buffer, grains in (("cache_gpu", s.grains[0]), ("cache_ring", s.streamed)):
        data = views.read(buffer)
        if data is not None:
            parts.append(_attend_cached(job, task, q_GPH[at : at + grains], data, grains, at))
        at += grains
    done = parts[0] if len(parts) == 1 else torch.cat(parts)
    return done.reshape(len(batch.rows), 1, -1)


def _attend_cached(job: Job, task: Task, q_GPH: Tensor, data: Tensor, grains: int, first: int) -> Tensor:
    s, context = job.segment(task), job.placement.context(task.i, task.k)
    pairs = by_grain(data, grains, s.capacity, s.head_dim, job.dtype)[:, :, :context]
    mask = job.batches[task.k].key_mask
    visible = None if mask is None else mask[first : first + grains, :context]
    return grain_attention(q_GPH, pairs[:, 0], pairs[:, 1], visible, job.family.scale)


def _keep(job: Job, task: Task, views: Views, pairs: Tensor) -> None:
    """New keys and values (G, 2, S, H) into the cache on the gpu, and where they leave it from."""
    s, old = job.segment(task), job.old_tokens(task)
    new, at = pairs.shape[2], 0
    for buffer, grains in (("cache_gpu", s.grains[0]), ("cache_ring", s.streamed)):
        data = views.write(buffer)
        if data is not None:
            cache = by_grain(data, grains, s.capacity, s.head_dim, job.dtype)
            cache[:, :, old : old + new] = pairs[at : at + grains]
        at += grains
    fresh = views.write("fresh")
    if fresh is not None:
        by_grain(fresh, s.off_gpu, new, s.head_dim, job.dtype).copy_(pairs[s.grains[0] :])


def _take_up(job: Job, task: Task, views: Views) -> Tensor:
    """Hidden states (B, S, D) in the working slot; their part on the gpu comes from its home."""
    slot, home = views.slot("hidden_decode" if task.i else "hidden_prefill"), views.read("hidden_gpu")
    if home is not None:
        slot[: len(home)].copy_(home)
    return slot.view(job.dtype).view(len(job.batches[task.k].rows), -1, job.placement.shape.hidden_size)


def _put_down(job: Job, task: Task, views: Views, hidden: Tensor) -> None:
    """The result into the working slot, and its part that stays into its home on the gpu."""
    slot, home = views.slot("hidden_decode" if task.i else "hidden_prefill"), views.write("hidden_gpu")
    slot.view(job.dtype).view(hidden.shape).copy_(hidden)
    if home is not None:
        home.copy_(slot[: len(home)])


HANDLERS: Mapping[str, Handler] = {
    "read_weight": _read_disk,
    "stage_weight": _transfer,
    "load_weight": _transfer,
    "gather": gather,
    "load_rows": _transfer,
    "load_ids": _transfer,
    "read_hidden": _read_disk,
    "load_hidden": _transfer,
    "read_cache": _read_disk,
    "load_cache": load_cache,
    "project": project,
    "send_query": _transfer,
    "attend": attend,
    "load_attention": _transfer,
    "compute": compute,
    "store_cache": store_cache,
    "write_cache": _write_disk,
    "store_hidden": store_hidden,
    "write_hidden": _write_disk,
    "store_ids": _transfer,
}
