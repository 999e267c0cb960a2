"""ExecutionEnv: the three tiers of this machine, with their budgets."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.nn.functional import linear

from flexplan.cost import Rates
from flexplan.errors import UsageError
from flexplan.graph import H2D_SMALL
from flexplan.units import parse_size
from flexplan_runtime.execute.lanes import HOST_LANES
from flexplan_runtime.execute.throttle import Throttle
from flexplan_runtime.execute.turns import Turn
from flexplan_runtime.kernels.norms import layer_norm
from flexplan_runtime.memory import Ledger, in_memory

# they launch kernels and drive copies; without them host attention collapses beside a busy link
_CORES_THAT_DRIVE_A_DEVICE = 2


class ExecutionEnv:
    """Where a model runs: a device, a directory for the disk tier, budgets in bytes (None: no limit).

    ``num_threads`` is for computing on the host; ``deadline_s`` is how long a run may go without finishing
    a task; ``throttle`` slows the tiers down to given rates, for experiments; ``timed=False`` keeps no timeline.

    Its models may be used by several threads, and run one after the other; ``turn`` is whose turn it is.
    """

    def __init__(
        self,
        offload_dir: Path,
        budgets: dict[str, int | None],
        device: torch.device,
        num_threads: int,
        deadline_s: float,
        throttle: Throttle | None,
        timed: bool = True,
    ) -> None:
        self.offload_dir = offload_dir
        self.ledger = Ledger(budgets, offload_dir if in_memory(offload_dir) else None)
        self.device = device
        self.num_threads = num_threads
        self.deadline_s = deadline_s
        self.throttle = throttle
        self.timed = timed
        self.turn = Turn()
        self._streams: dict[str, Any] = {}
        self._reserved_bytes = 0

    def stream(self, lane: str) -> Any:
        """The CUDA stream of a lane, the same for every run: the framework keeps freed memory by stream.

        None for lanes that the host runs itself, and on machines without CUDA.
        """
        if self.device.type != "cuda" or lane in HOST_LANES:
            return None
        if lane not in self._streams:
            self._streams[lane] = torch.cuda.Stream(self.device, priority=-1 if lane == H2D_SMALL else 0)
        return self._streams[lane]

    def reserve_workspace(self, nbytes: int) -> None:
        """Let the framework take what kernels of this thread and stream will need now, so that none waits later."""
        if self.device.type == "cpu" or nbytes <= self._reserved_bytes:
            return
        torch.cuda.empty_cache()
        few = torch.zeros(16, 16, dtype=torch.float16, device=self.device)
        linear(few, few, few[0])  # the library's own workspace comes first: later it would cut ours in two
        torch.empty(nbytes, dtype=torch.uint8, device=self.device)
        self._reserved_bytes = nbytes

    def renew_workspace(self) -> None:
        """Give what is free back to the device, and reserve anew, before the next task."""
        self._reserved_bytes = 0

    def recover(self) -> None:
        """After memory gave out: let the device finish what it is at, and give back what is free."""
        gc.collect()  # a block's state and its lanes know each other
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
        self.renew_workspace()

    @property
    def loading_threads(self) -> int:
        """Threads that fill and touch memory, while nothing is computed."""
        return self.num_threads + (_CORES_THAT_DRIVE_A_DEVICE if self.device.type == "cuda" else 0)

    @classmethod
    def create(
        cls,
        offload_dir: str | Path = "offload",
        *,
        gpu_mem: str | int | None = None,
        cpu_mem: str | int | None = None,
        disk_mem: str | int | None = None,
        device: str | None = None,
        num_threads: int | None = None,
        deadline_s: float = 300.0,
        throttle: Rates | None = None,
        timed: bool = True,
    ) -> ExecutionEnv:
        """An environment; sizes are text such as ``16G`` or bytes, ``device`` is cuda where there is one, else cpu."""
        chosen = _device(device)
        asked = {"gpu": gpu_mem, "cpu": cpu_mem, "disk": disk_mem}
        budgets = {tier: None if size is None else parse_size(size) for tier, size in asked.items()}
        cores = len(os.sched_getaffinity(0)) - _CORES_THAT_DRIVE_A_DEVICE
        threads = num_threads or (max(1, cores) if chosen.type == "cuda" else torch.get_num_threads())
        _wake(chosen)
        slow = None if throttle is None else Throttle(throttle)
        return cls(Path(offload_dir).expanduser(), budgets, chosen, threads, deadline_s, slow, timed)

    def close(self) -> None:
        """Nothing is held between models; here for symmetry with the models' own close."""

    def __enter__(self) -> ExecutionEnv:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _device(name: str | None) -> torch.device:
    """The device of this name, which this machine has and this runtime computes on; by default the first of them."""
    here = [f"cuda:{n}" for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    try:
        chosen = torch.device(name or (here or ["cpu"])[0])
    except RuntimeError:
        raise _no_device("FP140", f"device {name!r} is not a device", here) from None
    if chosen.type not in ("cuda", "cpu"):
        raise _no_device("FP143", f"device {name!r}: flexplan computes on CUDA devices and on the host only", here)
    if chosen.type == "cuda" and not here:
        raise _no_device("FP141", f"device {name!r}: this machine has no CUDA device", here)
    if (chosen.index or 0) >= (len(here) if chosen.type == "cuda" else 1):
        raise _no_device("FP144", f"device {name!r}: there are not so many", here)
    return torch.device("cpu") if chosen.type == "cpu" else chosen


def _no_device(code: str, message: str, here: list[str]) -> UsageError:
    words = ", ".join((*here, "cpu"))
    return UsageError(code, f"{message}; here are {words}" if here else message, fix=f"use --device {words}")


def _wake(device: torch.device) -> None:
    """Make a device's context and start the compiler of kernels; the first model that is opened would wait for both."""
    if device.type == "cuda":
        layer_norm(torch.zeros(1, 1, 16, device=device), None, None, 1.0)
