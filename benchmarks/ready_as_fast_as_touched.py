"""A model with dummy weights on the host is ready in at most 1.3 times what touching as many bytes takes.

    python benchmarks/ready_as_fast_as_touched.py [--model facebook/opt-30b]

All threads touch a quarter of the bytes before the model is opened and a quarter after, and keep them: freed pages
would be warm.  Needs one and a half times the model's size of host memory.
"""

from __future__ import annotations

import argparse
import os
import time

import torch
from flexplan_runtime import ExecutionEnv, OffloadedLM
from flexplan_runtime.hostmemory import HostBlock

from flexplan.catalog import read_model
from flexplan.policy import Policy
from flexplan.tensors import weight_tensors
from flexplan.units import GiB

LIMIT = 1.3


def touched(nbytes: int) -> tuple[HostBlock, float]:
    """A block, and the seconds that all cores took to touch it."""
    block, start = HostBlock(nbytes), time.perf_counter()
    block.touch(len(os.sched_getaffinity(0)))
    return block, time.perf_counter() - start


def locked_s(block: HostBlock) -> float:
    """The seconds of page-locking a block, which is unlocked again."""
    start = time.perf_counter()
    block.lock()
    took_s = time.perf_counter() - start
    block.unlock()
    return took_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="facebook/opt-30b")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--offload-dir", default="offload")
    given = parser.parse_args()
    env, policy = ExecutionEnv.create(given.offload_dir), Policy(1, 1, w_gpu_percent=0.0, w_cpu_percent=100.0)
    shape = read_model(given.model)[0].with_dtype(getattr(torch, given.dtype).itemsize)
    nbytes = sum(tensor.nbytes for tensor in weight_tensors(shape))
    kept, before_s = touched(nbytes // 4)
    start = time.perf_counter()
    with OffloadedLM(given.model, env, "_DUMMY_", policy, dtype=given.dtype):
        ready_s = time.perf_counter() - start
        also_kept, after_s = touched(nbytes // 4)
    touch_s = 2 * (before_s + after_s)
    touched_s = f"2 x ({before_s:.1f} + {after_s:.1f}) s"
    print(f"{given.model}: {nbytes / GiB:.1f} GiB ready in {ready_s:.1f} s, touched in {touched_s}")
    print(f"ready in {ready_s / touch_s:.2f} times of touching; at most {LIMIT} wanted")
    if env.device.type == "cuda":
        rates = [f"{len(kept.data) / locked_s(kept) / 1e9:.1f}" for _ in range(2)]
        print(f"touched memory is page-locked at {rates[0]} GB/s the first time, at {rates[1]} the second")
    kept.close(), also_kept.close()
    raise SystemExit(ready_s > LIMIT * touch_s)


if __name__ == "__main__":
    main()
