"""Handlers that move bytes between the tiers, as they are or in the order of where they go."""

from __future__ import annotations

import torch

from flexplan_runtime.attention import by_grain, disk_pair_bytes, grain_rows, split_by_home, token_rows
from flexplan_runtime.execute.handlers.door import store_newcomers
from flexplan_runtime.execute.handlers.gather import gather_rows
from flexplan_runtime.execute.handlers.moving import ids_of
from flexplan_runtime.execute.views import TaskView
from flexplan_runtime.memory import fetch_rows


def transfer(view: TaskView) -> None:
    """The bytes read, one range behind the other, into the bytes written."""
    out, at = view.target(), 0
    for data in view.sources():
        size = min(len(data), len(out) - at)  # a relay is padded for the disk
        view.move(out[at : at + size], data[:size])
        at += size


def read_disk(view: TaskView) -> None:
    """A range of the disk's file into memory."""
    (file, offset), out = view.on_disk(view.task.reads[0].buffer), view.target()
    file.read(offset, out)
    view.count("read_bytes", len(out))


def write_disk(view: TaskView) -> None:
    """Memory into a range of the disk's file."""
    (file, offset), data = view.on_disk(view.task.writes[0].buffer), view.source()
    file.write(offset, data)
    view.count("write_bytes", len(data))


def write_cache(view: TaskView) -> None:
    """Rows of new keys and values on to disk."""
    write_disk(view)
    view.note("cache", "disk", view.kept_tokens * disk_pair_bytes(view.segment))


def write_hidden(view: TaskView) -> None:
    """Hidden states on to disk."""
    write_disk(view)
    view.note("act", "disk", view.placement.hidden_parts(view.task.i, view.task.k)[2])


def store_hidden(view: TaskView) -> None:
    """Hidden states off the gpu: the host's part to its home, the disk's to the relay."""
    data, at = view.source(), 0
    for access, out in zip(view.task.writes, view.targets(), strict=True):
        size = min(len(out), len(data) - at)
        view.move(out[:size], data[at : at + size])
        at += size
        if access.buffer == "hidden_cpu":
            view.note("act", "cpu", size)


def load_cache(view: TaskView) -> None:
    """Old keys and values, or keys alone, of the grains that the gpu attends over by streaming them."""
    s, old, parts = view.segment, view.old_tokens, view.placement.streamed_parts
    ring = split_by_home(view.target(), s, s.streamed_by_tier[0], s.capacity)
    home, relay = view.read("cache_cpu"), view.read("cache_relay")
    if home is not None:
        to = by_grain(ring[0], s, s.streamed_by_tier[0], s.capacity, view.block.cache_dtype, parts)
        source = by_grain(home, s, s.streamed_by_tier[0], s.capacity, view.block.cache_dtype)[:, :parts]
        view.move(grain_rows(to, 0, old), grain_rows(source, 0, old))
    if relay is not None:
        to = token_rows(ring[1], s, old, disk_pair_bytes(s), view.block.cache_dtype)
        view.move(to, token_rows(relay, s, old, s.disk_row_bytes, view.block.cache_dtype))


def load_values(view: TaskView) -> None:
    """The values that `project` chose among the old ones, from where they live."""
    rows, row_bytes = view.slot("choices").view(torch.int64), view.segment.vector_bytes
    fetch_rows(view.block.ledger, view.task, view.slot("values"), view.slot("cache_cpu"), rows, row_bytes)


def store_cache(view: TaskView) -> None:
    """New keys and values to the host's cache, and to rows for the disk."""
    if view.door is not None:
        store_newcomers(view)
        return
    s, at, new = view.segment, view.column, view.kept_tokens
    fresh = split_by_home(view.source(), s, s.grains[1], new)
    home, out = view.write("cache_cpu"), view.write("cache_out")
    if home is not None:
        to = by_grain(home, s, s.grains[1], s.capacity, view.block.cache_dtype)
        source = by_grain(fresh[0], s, s.grains[1], new, view.block.cache_dtype)
        view.move(grain_rows(to, at, new), grain_rows(source, 0, new))
        view.note("cache", "cpu", source.nbytes)
    if out is not None:
        source = token_rows(fresh[1], s, new, disk_pair_bytes(s), view.block.cache_dtype)
        view.move(token_rows(out, s, new, s.disk_row_bytes, view.block.cache_dtype), source)


def gather(view: TaskView) -> None:
    """Rows of the token table that are off the gpu."""
    gather_rows(view, ids_of(view), view.target())
