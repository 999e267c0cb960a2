"""What a decoding step of a model that lies on the GPU consists of: its kernels, how often and how long each runs.

    python benchmarks/kernels_of_a_step.py [--model facebook/opt-6.7b] [--rows 2] [--gpu-mem 40G]

Random weights, prompts of 512 tokens.  ``between`` is the time in which no kernel runs; the tracer adds some to it.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import common
import torch
from flexplan_runtime import ExecutionEnv, OffloadedLM
from torch.profiler import ProfilerActivity, profile

from flexplan.testing import policy_with

NEW = 12


def main() -> None:
    parser = common.parser(__doc__, model="facebook/opt-6.7b", dtype="float16")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--gpu-mem", default="40G")
    given = parser.parse_args()
    policy = policy_with(given.rows, 1, w=(100, 0), cache=(100, 0), act=(100, 0))
    with (
        ExecutionEnv.create(given.offload_dir, gpu_mem=given.gpu_mem) as env,
        OffloadedLM(given.model, env, "_DUMMY_", policy, dtype=given.dtype) as lm,
    ):
        prompts = common.prompts_of(lm.shape.vocab_size, given.rows)
        for _ in range(3):  # captured, then replayed
            lm.generate(prompts, max_new_tokens=NEW)
        with profile(activities=[ProfilerActivity.CUDA]) as traced:
            lm.generate(prompts, max_new_tokens=NEW)
        ends_s = [lm.timeline.sweep_end_s[i] for i in sorted(lm.timeline.sweep_end_s)]
    device = torch.autograd.DeviceType.CUDA
    kernels = sorted((e.time_range.start, e.time_range.end, e.name) for e in traced.events() if e.device_type == device)
    tell(kernels, 1e6 * (ends_s[-1] - ends_s[-2]))


def tell(kernels: list[tuple[float, float, str]], step_us: float) -> None:
    """A line a kernel, of the last step."""
    last = [k for k in kernels if k[0] > kernels[-1][1] - step_us]
    runs: dict[str, list[float]] = defaultdict(list)
    for start, end, name in last:
        runs[name].append(end - start)
    between = sum(max(0.0, b[0] - a[1]) for a, b in pairwise(last))
    print(f"the last step takes {step_us:.0f} us: {len(last)} kernels, {between:.0f} us between them")
    for name, took in sorted(runs.items(), key=lambda item: -sum(item[1])):
        print(f"{sum(took):9.1f} us  {len(took):4} x {sum(took) / len(took):7.2f}  {name[:90]}")


if __name__ == "__main__":
    main()
