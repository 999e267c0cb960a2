"""What the scripts share: flags, prompts, the cap of GPU memory, clocks, and the JSON line that a script prints."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from flexplan import Policy

T = TypeVar("T")


def parser(doc: str | None, model: str | None = None, dtype: str | None = None) -> argparse.ArgumentParser:
    """Flags of a script, ``--help`` being its docstring; those of a run where there is a model."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if model:
        made.add_argument("--model", default=model)
    if dtype:
        made.add_argument("--dtype", default=dtype)
        made.add_argument("--offload-dir", default="offload")
    return made


def prompts_of(vocab_size: int, rows: int, prompt_len: int = 512) -> list[list[int]]:
    """Distinct prompts of random tokens, the same each time."""
    import torch

    draw = torch.Generator().manual_seed(0)
    found: list[list[int]] = torch.randint(10, vocab_size, (rows, prompt_len), generator=draw).tolist()
    return found


def policy_of(rows: int, batches: int, percents: Sequence[float], **switches: Any) -> Policy:
    """The policy of six percents: weights, cache and activations, each on the gpu and on the cpu."""
    from flexplan.testing import policy_with  # another system is measured without flexplan

    w, cache, act = zip(percents[::2], percents[1::2], strict=True)
    return policy_with(rows, batches, w=w, cache=cache, act=act, **switches)


def is_cuda(device: str | None) -> bool:
    """Whether an environment of this device runs on a GPU."""
    import torch  # planning is measured without it

    return torch.cuda.is_available() and device != "cpu"


def cap_gpu(nbytes: float) -> None:
    """More GPU memory than this is an error."""
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, nbytes / total))


def timed(act: Callable[[], T], clock: Callable[[], float] = time.perf_counter) -> tuple[T, float]:
    """What a call gives, and the seconds that it takes."""
    start = clock()
    found = act()
    return found, clock() - start


def seconds(act: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """What a call takes."""
    return timed(act, clock)[1]


def fastest(act: Callable[[], object], runs: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of the fastest run after a warm-up."""
    act()
    return min(seconds(act, clock) for _ in range(runs))


def gpu_seconds(act: Callable[[], object], times: int = 20) -> float:
    """On the GPU: the median of ``times`` runs after a warm-up."""
    import torch

    act()
    act()
    found = []
    for _ in range(times):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        act()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / 1e3)
    return statistics.median(found)


def put(found: dict[str, Any], kept: Path | None = None) -> None:
    """Print a JSON line, and add it to a file."""
    line = json.dumps(found)
    print(line, flush=True)
    if kept:
        with kept.open("a") as out:
            out.write(line + "\n")
