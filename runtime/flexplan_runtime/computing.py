"""Handlers that compute: weights opened, and what the embedding, a layer or the head makes of a micro-batch."""

from __future__ import annotations

import torch
from torch import Tensor

from flexplan.graph import Task
from flexplan.tensors import ATTENTION, EMBED, HEAD
from flexplan_runtime.attending import layer_attention
from flexplan_runtime.gather import merge_rows
from flexplan_runtime.hidden import put_down, take_up, working
from flexplan_runtime.job import Job
from flexplan_runtime.packedweights import unpack
from flexplan_runtime.views import Views


def open_weight(job: Job, task: Task, views: Views) -> None:
    """A layer's weights unpacked into whole tensors; what is not packed is copied beside them."""
    w, slot = job.placement.weights[task.j], views.slot("weights_open")
    for piece, data in job.stored_pieces(task):
        whole = job.whole_view(slot, w, piece.tensor)
        unpack(data, piece.tensor, whole[piece.row_lo : piece.row_hi])


def compute(job: Job, task: Task, views: Views) -> None:
    """A layer of one micro-batch, or what is left of it after `project`."""
    layer = job.layer(task)
    if layer.role == EMBED:
        _embed(job, task, views)
    elif layer.role == HEAD:
        _head(job, task, views)
    else:
        hidden_BSD = take_up(job, task, views)
        for rows in job.row_spans(task):
            _transform(job, task, views, hidden_BSD[rows], rows)
        put_down(job, task, views)


def _transform(job: Job, task: Task, views: Views, slot_BSD: Tensor, rows: slice) -> None:
    """These rows through a transformer layer, or a part of it, in their slot."""
    layer, weights, hidden_BSD = job.layer(task), job.layer_weights(task), slot_BSD
    if layer.attends:
        attention_BSQ = layer_attention(job, task, views, hidden_BSD, rows)
        hidden_BSD = job.family.merge(weights, hidden_BSD, attention_BSQ, slot_BSD if layer.role == ATTENTION else None)
    if layer.role != ATTENTION:
        job.family.mlp(weights, hidden_BSD, slot_BSD)


def _embed(job: Job, task: Task, views: Views) -> None:
    job.advance(task)
    hidden_BSD, positions_BS, gathered = working(job, task, views), job.positions(task), views.read("rows")
    ids_BS = job.arena_bytes(next(a for a in task.reads if a.buffer == "ids")).view(torch.int64)
    ids_BS = ids_BS.view(hidden_BSD.shape[:2])
    found_BSE = None if gathered is None else gathered.view(job.dtype).view(*ids_BS.shape, -1)
    for rows in job.row_spans(task):
        rows_BSE = merge_rows(job, task, ids_BS[rows], None if found_BSE is None else found_BSE[rows])
        hidden_BSD[rows] = job.family.embed(job.layer_weights(task), rows_BSE, positions_BS[rows])
    put_down(job, task, views)


def _head(job: Job, task: Task, views: Views) -> None:
    hidden, batch = take_up(job, task, views), job.batches[task.k]
    logits = job.family.head(job.layer_weights(task), hidden[:, -1])
    if batch.penalties is not None:
        logits = batch.penalties(logits, task.i)
    chosen = job.sampling.choose(logits, batch.rows, task.i)
    if len(job.stop_ids):
        chosen = torch.where(batch.stopped, job.pad_id, chosen)
        batch.stopped |= torch.isin(chosen, job.stop_ids)
    if batch.penalties is not None:
        batch.penalties.note(chosen, task.i)
    views.slot("ids").view(torch.int64).copy_(chosen)
