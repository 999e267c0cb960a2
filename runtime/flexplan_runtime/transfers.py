"""Handlers that move bytes between the tiers, as they are or in the order of where they go."""

from __future__ import annotations

import torch

from flexplan.graph import Task
from flexplan_runtime.gather import gather_rows
from flexplan_runtime.job import Job
from flexplan_runtime.kvcache import by_grain, disk_pair_bytes, grain_rows, split_by_home, token_rows
from flexplan_runtime.moves import fetch_rows, move
from flexplan_runtime.views import Views


def transfer(job: Job, task: Task, views: Views) -> None:
    """The bytes read, one range behind the other, into the bytes written."""
    out = [job.arena_bytes(a) for a in task.writes]
    at = 0
    for access in task.reads:
        data = job.arena_bytes(access)
        size = min(len(data), len(out[0]) - at)  # a relay is padded for the disk
        move(job.ledger, task, out[0][at : at + size], data[:size])
        at += size


def read_disk(job: Job, task: Task, views: Views) -> None:
    """A range of the disk's file into memory."""
    file, offset = job.disk_range(task.reads[0])
    out = job.arena_bytes(task.writes[0])
    file.read(offset, out)
    job.ledger.count("read_bytes", task.i, len(out))


def write_disk(job: Job, task: Task, views: Views) -> None:
    """Memory into a range of the disk's file."""
    file, offset = job.disk_range(task.writes[0])
    data = job.arena_bytes(task.reads[0])
    file.write(offset, data)
    job.ledger.count("write_bytes", task.i, len(data))


def write_cache(job: Job, task: Task, views: Views) -> None:
    """Rows of new keys and values on to disk."""
    write_disk(job, task, views)
    s = job.segment(task)
    job.note(task, "cache", "disk", job.placement.new_tokens(task.i, task.k) * disk_pair_bytes(s))


def write_hidden(job: Job, task: Task, views: Views) -> None:
    """Hidden states on to disk."""
    write_disk(job, task, views)
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


def gather(job: Job, task: Task, views: Views) -> None:
    """Rows of the token table that are off the gpu."""
    ids = job.arena_bytes(task.reads[0]).view(torch.int64).clamp(min=0)  # of a row that no token was chosen for
    gather_rows(job, task, ids, job.arena_bytes(task.writes[0]))
