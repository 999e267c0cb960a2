"""Replay: a gpu task whose bytes stay in one place is captured once as a CUDA graph and then launched as one.

A decode step of a layer is some twenty kernels; launched one by one they take longer than they run.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch

from flexplan.graph import Task
from flexplan.placement import Placement

# buffers of which a task finds the same slot at the same address for every token
_STEADY = frozenset(("weights_gpu", "cache_gpu", "hidden_prefill", "hidden_decode", "ids", "weights_open"))
# a longer prompt keeps the gpu busy by itself, and its results would be held twice
_SHORT_BYTES = 32 << 20


class Replays:
    """The captured tasks of one job: the first time a task runs as it is, the second time it is captured."""

    def __init__(self) -> None:
        self._seen: set[Hashable] = set()
        self._graphs: dict[Hashable, Any] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, task: Task, work: Callable[[], None]) -> None:
        """Do ``work`` for the task, or replay it."""
        key = (task.kind, task.i == 0, task.j, task.k)
        graph = self._graphs.get(key)
        if graph is not None:
            graph.replay()
        elif key in self._seen:
            self._graphs[key] = graph = self._capture(work)
            graph.replay()
        else:
            self._seen.add(key)
            work()

    def _capture(self, work: Callable[[], None]) -> Any:
        graph = torch.cuda.CUDAGraph()
        # other lanes go on calling CUDA meanwhile: only this thread's calls are captured or restricted
        with torch.cuda.graph(
            graph, pool=self._pool, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"
        ):
            work()
        return graph


def is_steady(task: Task, placement: Placement) -> bool:
    """True for a step that is short, and reads and writes the same addresses every time."""
    if task.kind not in ("compute", "open_weight") or not placement.hidden_stays:
        return False
    if placement.open_slots > 1 and "weights_open" in placement.buffers:
        return False
    if placement.hidden_bytes(task.i, task.k) > _SHORT_BYTES:
        return False
    return all(access.buffer in _STEADY for access in (*task.reads, *task.writes))
