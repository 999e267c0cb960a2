"""A model with dummy weights on the host is ready in at most 1.3 times what touching as many bytes takes.

    python benchmarks/ready_as_fast_as_touched.py [--model facebook/opt-30b]

All threads touch a quarter of the bytes before the model is opened and a quarter after, as the framework fills a new
tensor, and keep them: freed pages would be warm.  Needs one and a half times the model's size of host memory.  Printed
beside it: what touching one byte of each huge page takes, and page-locking, which the driver does one by one.
"""

from __future__ import annotations

import os

import common
import torch
from flexplan_runtime import ExecutionEnv, OffloadedLM
from flexplan_runtime.memory import HostBlock

from flexplan.model import read_model, weight_tensors
from flexplan.policy import Policy
from flexplan.units import GiB

LIMIT = 1.3
THREADS = len(os.sched_getaffinity(0))


def touched(nbytes: int) -> tuple[torch.Tensor, float]:
    """New memory, and the seconds that all threads took to touch its bytes."""
    torch.set_num_threads(THREADS)
    memory = torch.empty(nbytes, dtype=torch.uint8)
    return memory, common.seconds(memory.zero_)


def print_rates(nbytes: int, *, locks: bool) -> None:
    """How fast huge pages are touched, and page-locked for the first and the second time."""
    block = HostBlock(nbytes)
    print(
        f"huge pages are touched at {nbytes / common.seconds(lambda: block.touch(THREADS)) / 1e9:.1f} GB/s", flush=True
    )
    for time_ in ("first", "second") if locks else ():
        print(f"and page-locked at {nbytes / common.seconds(block.lock) / 1e9:.1f} GB/s the {time_} time", flush=True)
        block.unlock()
    block.close()


def main() -> None:
    parser = common.parser(__doc__, model="facebook/opt-30b", dtype="bfloat16")
    given = parser.parse_args()
    env, device_s = common.timed(lambda: ExecutionEnv.create(given.offload_dir))
    print(f"device ready in {device_s:.1f} s")
    policy = Policy(1, 1, w_gpu_percent=0.0, w_cpu_percent=100.0)
    shape = read_model(given.model)[0].with_dtype(getattr(torch, given.dtype).itemsize)
    nbytes = sum(tensor.nbytes for tensor in weight_tensors(shape))
    kept, before_s = touched(nbytes // 4)
    lm, ready_s = common.timed(lambda: OffloadedLM(given.model, env, "_DUMMY_", policy, dtype=given.dtype))
    with lm:
        also_kept, after_s = touched(nbytes // 4)
    touch_s = 2 * (before_s + after_s)
    touched_s = f"2 x ({before_s:.2f} + {after_s:.2f}) s"
    print(f"{given.model}: {nbytes / GiB:.1f} GiB ready in {ready_s:.2f} s, touched in {touched_s}")
    print(f"ready in {ready_s / touch_s:.2f} times of touching; at most {LIMIT} wanted")
    del kept, also_kept
    print_rates(nbytes // 2, locks=env.device.type == "cuda")
    raise SystemExit(ready_s > LIMIT * touch_s)


if __name__ == "__main__":
    main()
