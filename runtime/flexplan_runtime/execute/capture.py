"""Replay: a gpu task that finds its bytes where it found them before is captured as a CUDA graph, then launched as one.

A decode step of a layer is some twenty kernels; launched one by one they take longer than they run, and far longer
while the host's cores attend.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Any

import torch

from flexplan.graph import GPU, KINDS, Task
from flexplan.placement import Layout, Placement

log = logging.getLogger(__name__)

# what choosing leaves to its second half grows with the context, so no step of it is like another
_GROWING = frozenset(("choices", "probs", "values"))
_ENDLESS = 1 << 40  # passes: those of a job go on
_WORTH = 3  # replays that pay for a capture
_MOST = 4096  # steps that differ: of dozens of micro-batches and layers; a captured one takes memory of the device


class Replays:
    """The captured tasks of one block: the first time a task runs as it is, the second time it may be captured.

    A task is the same one when all of its slots are: in the built-in schedules, in every pass.
    """

    def __init__(self, placement: Placement, chooses_by_step: bool = False) -> None:
        self._buffers = Layout.of(placement).buffers
        self._gen_len = _ENDLESS if placement.rolls else placement.block.gen_len
        # what the head does then is another thing at each step
        self._eager = len(placement.layers) - 1 if chooses_by_step else None
        self._seen: dict[Hashable, int] = {}  # the token at which a task was first met
        self._graphs: dict[Hashable, Any] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._full = False  # no memory is left to capture in

    def run(self, task: Task, work: Callable[[], None]) -> None:
        """Do ``work`` for the task, or replay it."""
        if not self._is_steady(task):
            work()
            return
        key = self._key(task)
        if key not in self._graphs and self._is_worth_it(key, task):
            self._try_to_capture(key, work)
        if key in self._graphs:
            self._graphs[key].replay()
        else:
            work()

    def _try_to_capture(self, key: Hashable, work: Callable[[], None]) -> None:
        """Where the device has no memory left for it, steps are launched as before, kernel by kernel."""
        try:
            self._graphs[key] = _capture(work, self._pool)
        except torch.OutOfMemoryError:
            self._full = True
            log.warning("no memory is left to capture steps in; they are launched kernel by kernel")

    def _is_steady(self, task: Task) -> bool:
        """True for a step of decoding that, with the same slots, does the same to the same addresses.

        A prompt keeps the gpu busy by itself, and what its kernels allocate would be held twice.  Those who move to
        another seat take another with each task.
        """
        if KINDS[task.kind].lane != GPU or task.kind == "move_gpu" or task.i == 0 or task.j == self._eager:
            return False
        return not any(access.buffer in _GROWING for access in (*task.reads, *task.writes))

    def _key(self, task: Task) -> Hashable:
        buffers = self._buffers
        slots = tuple([buffers[a.buffer].slot(a.index) for a in (*task.reads, *task.writes)])
        return task.kind, task.j, task.k, slots

    def _is_worth_it(self, key: Hashable, task: Task) -> bool:
        """Met before, and from here on often enough; a second block of the same shape says there may be more."""
        if key not in self._seen:
            self._seen[key] = task.i
            return False
        first = self._seen[key]
        if self._full or len(self._seen) > _MOST:  # slots come round too slowly
            return False
        return task.i <= first or (self._gen_len - 1 - task.i) // (task.i - first) >= _WORTH


def _capture(work: Callable[[], None], pool: Any) -> Any:
    """The kernels that ``work`` launches on this thread's stream.

    `torch.cuda.graph` would first wait for the whole device and give its memory back to the driver.
    """
    graph = torch.cuda.CUDAGraph()
    # other lanes go on calling CUDA meanwhile: only this thread's calls are captured or restricted
    graph.capture_begin(pool=pool, capture_error_mode="thread_local")
    try:
        work()
    except BaseException:
        with suppress(RuntimeError):  # the capture is broken, and why is what matters
            graph.capture_end()
        raise
    graph.capture_end()
    return graph
