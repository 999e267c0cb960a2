"""Kinds, lanes and tiers: what a task can be, in whose order it runs, whose memory it takes.  The plug-in contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from flexplan.graph.tasks import Task

# -- lanes: ordering domains, each in order within itself ------------------------------------------------
GPU = "gpu"
H2D_WEIGHTS, H2D_CACHE, H2D_SMALL, D2H = "h2d_weights", "h2d_cache", "h2d_small", "d2h"
DISK_READ, DISK_WRITE = "disk_read", "disk_write"
CPU, HOST_COPY = "cpu", "host_copy"
INLINE = "inline"
LANES = (GPU, H2D_WEIGHTS, H2D_CACHE, H2D_SMALL, D2H, CPU, HOST_COPY, DISK_READ, DISK_WRITE, INLINE)


# -- tiers: what a budget is given for, the fastest and dearest first -------------------------------------
TIERS = ("gpu", "cpu", "disk")
_TIER_OF_ARENA = {"gpu": "gpu", "host": "cpu", "pageable": "cpu", "disk": "disk"}


def tier_of(arena: str) -> str:
    """The tier whose budget an arena is charged to.

    >>> tier_of("pageable.weights")
    'cpu'
    """
    return _TIER_OF_ARENA[arena.partition(".")[0]]


class Kind(NamedTuple):
    """What a task of this kind does: its lane, what it reads and writes.  A handler has the name of its kind."""

    lane: str
    reads: str
    writes: str


# The plug-in contract.  load_ and store_ cross the link, read_ and write_ reach the disk;
# move_ is what a row of a rolling schedule takes with it to a larger seat.
KINDS: Mapping[str, Kind] = {
    "read_weight": Kind(DISK_READ, "weights_disk", "weight_relay"),
    "stage_weight": Kind(HOST_COPY, "weights_cpu", "weight_stage"),
    "load_weight": Kind(H2D_WEIGHTS, "weights_cpu, weight_stage, weight_relay", "weight_ring"),
    "unpack_weight": Kind(GPU, "weights_gpu, weight_ring", "weights_unpacked"),
    "gather": Kind(CPU, "ids_host or outputs, weights_cpu, weights_disk", "rows_host"),
    "load_rows": Kind(H2D_SMALL, "rows_host", "rows"),
    "load_ids": Kind(H2D_SMALL, "ids_host", "ids"),
    "read_hidden": Kind(DISK_READ, "hidden_disk", "hidden_relay"),
    "load_hidden": Kind(H2D_SMALL, "hidden_cpu, hidden_relay", "hidden"),
    "read_cache": Kind(DISK_READ, "cache_disk", "cache_relay"),
    "load_cache": Kind(H2D_CACHE, "cache_cpu, cache_relay", "cache_ring"),
    "project": Kind(
        GPU, "weights, hidden, cache_gpu, cache_ring", "queries, fresh, attention, cache_gpu, choices, probs"
    ),
    "send_query": Kind(D2H, "queries", "queries_host"),
    "attend": Kind(CPU, "queries_host, cache_cpu, cache_relay, cache_out", "attention_host"),
    "load_attention": Kind(H2D_SMALL, "attention_host", "attention"),
    "load_values": Kind(H2D_CACHE, "choices, cache_cpu", "values"),
    "route": Kind(GPU, "weights, hidden", "routes"),
    "send_routes": Kind(D2H, "routes", "routes_host"),
    "load_experts": Kind(H2D_WEIGHTS, "routes_host, weights_cpu", "weight_ring"),
    "compute": Kind(
        GPU,
        "weights, hidden, cache_gpu, cache_ring, rows, ids, attention, probs, values, routes",
        "hidden, cache, fresh, ids",
    ),
    "store_cache": Kind(D2H, "fresh", "cache_cpu, cache_out"),
    "move_gpu": Kind(GPU, "cache_gpu", "cache_gpu"),
    "move_cpu": Kind(HOST_COPY, "cache_cpu", "cache_cpu"),
    "move_up": Kind(H2D_CACHE, "cache_cpu", "cache_gpu"),
    "move_down": Kind(D2H, "cache_gpu", "cache_cpu"),
    "write_cache": Kind(DISK_WRITE, "cache_out", "cache_disk"),
    "store_hidden": Kind(D2H, "hidden", "hidden_cpu, hidden_relay"),
    "write_hidden": Kind(DISK_WRITE, "hidden_relay", "hidden_disk"),
    "store_ids": Kind(D2H, "ids", "outputs"),
}


def natural_lane(task: Task) -> str:
    """The lane whose resources a task takes: its own; its kind's where it runs inline, on nobody's.

    >>> natural_lane(Task("load_weight", "inline", 0, 0, 0)), natural_lane(Task("load_weight", "h2d_cache", 0, 0, 0))
    ('h2d_weights', 'h2d_cache')
    """
    return KINDS[task.kind].lane if task.lane == INLINE and task.kind in KINDS else task.lane
