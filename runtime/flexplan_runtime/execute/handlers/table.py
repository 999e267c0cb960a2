"""Handlers: what a task of each kind does with the bytes it declares."""

from __future__ import annotations

from collections.abc import Mapping

from flexplan_runtime.execute.handlers.attention import attend, project
from flexplan_runtime.execute.handlers.compute import compute, unpack_weight
from flexplan_runtime.execute.handlers.experts import load_experts, route
from flexplan_runtime.execute.handlers.moving import move_cache
from flexplan_runtime.execute.handlers.transfers import (
    gather,
    load_cache,
    load_values,
    read_disk,
    store_cache,
    store_hidden,
    transfer,
    write_cache,
    write_hidden,
)
from flexplan_runtime.execute.views import Handler

HANDLERS: Mapping[str, Handler] = {
    "read_weight": read_disk,
    "stage_weight": transfer,
    "load_weight": transfer,
    "unpack_weight": unpack_weight,
    "gather": gather,
    "load_rows": transfer,
    "load_ids": transfer,
    "read_hidden": read_disk,
    "load_hidden": transfer,
    "read_cache": read_disk,
    "load_cache": load_cache,
    "load_values": load_values,
    "project": project,
    "send_query": transfer,
    "attend": attend,
    "load_attention": transfer,
    "route": route,
    "send_routes": transfer,
    "load_experts": load_experts,
    "compute": compute,
    "store_cache": store_cache,
    "move_gpu": move_cache,
    "move_cpu": move_cache,
    "move_up": move_cache,
    "move_down": move_cache,
    "write_cache": write_cache,
    "store_hidden": store_hidden,
    "write_hidden": write_hidden,
    "store_ids": transfer,
}
