"""Runs a policy with random weights and distinct prompts, every token generated, and prints what was measured.

    python benchmarks/generate_throughput.py --model facebook/opt-30b --dtype bfloat16 --block 24x3 \\
        --percent 15 85 0 100 100 0 --cpu-cache-compute --gpu-mem 16G --cpu-mem 110G

One JSON line: seconds of prefill and of a decode step, tokens a second, busy seconds by lane, memory by tier.
"""

from __future__ import annotations

import argparse
import statistics
from itertools import pairwise
from pathlib import Path

import common
import torch
from flexplan_runtime import ExecutionEnv, OffloadedLM

from flexplan.graph import Timeline
from flexplan.policy import Policy
from flexplan.units import GiB, parse_size


def arguments() -> argparse.Namespace:
    parser = common.parser(__doc__, model="facebook/opt-30b", dtype="bfloat16")
    parser.add_argument("--block", default="24x3", help="gpu_batch_size x num_gpu_batches")
    parser.add_argument("--percent", nargs=6, type=float, default=[15, 85, 0, 100, 100, 0])
    parser.add_argument("--cpu-cache-compute", action="store_true")
    parser.add_argument("--sep-layer", action="store_true")
    parser.add_argument("--prompt-len", type=int, default=512)
    parser.add_argument("--gen-len", type=int, default=32)
    parser.add_argument("--gpu-mem", default="16G")
    parser.add_argument("--cpu-mem", default="110G")
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--device")
    parser.add_argument("--repeat", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    rows, batches = map(int, args.block.split("x"))
    policy = common.policy_of(
        rows, batches, args.percent, sep_layer=args.sep_layer, cpu_cache_compute=args.cpu_cache_compute
    )
    cuda = common.is_cuda(args.device)
    if cuda:
        common.cap_gpu(parse_size(args.gpu_mem))
    env = ExecutionEnv.create(args.offload_dir, gpu_mem=args.gpu_mem, cpu_mem=args.cpu_mem, device=args.device)
    lm, init_s = common.timed(lambda: OffloadedLM(args.model, env, "_DUMMY_", policy, dtype=args.dtype))
    with lm:
        prompts = common.prompts_of(lm.shape.vocab_size, policy.block_size, args.prompt_len)
        for _ in range(args.repeat):
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            wall_s = common.seconds(lambda: lm.generate(prompts, max_new_tokens=args.gen_len, trace=bool(args.trace)))
            common.put({**report(args, policy, lm.timeline, init_s, wall_s), **memory(cuda)})
        if args.trace:
            lm.timeline.to_chrome_trace(args.trace, name="measured")


def report(
    args: argparse.Namespace, policy: Policy, timeline: Timeline, init_s: float, wall_s: float
) -> dict[str, object]:
    ends = [timeline.sweep_end_s[i] for i in sorted(timeline.sweep_end_s)]
    steps = [b - a for a, b in pairwise(ends)]
    return {
        "model": args.model,
        "dtype": args.dtype,
        "block": args.block,
        "percent": args.percent,
        "host_attention": args.cpu_cache_compute,
        "tokens_per_s": round(policy.block_size * args.gen_len / timeline.end_s, 2),
        "decode_tokens_per_s": round(policy.block_size / statistics.median(steps), 2) if steps else None,
        "prefill_s": round(timeline.prefill_s, 3),
        "step_s": [round(f(steps), 4) for f in (min, statistics.median, max)] if steps else None,
        "busy_s": {lane: round(s, 2) for lane, s in sorted(timeline.lane_busy_s.items())},
        "init_s": round(init_s, 1),
        "generate_wall_s": round(wall_s, 2),
    }


def memory(cuda: bool) -> dict[str, object]:
    peak = torch.cuda.max_memory_reserved() / GiB if cuda else None
    used = torch.cuda.max_memory_allocated() / GiB if cuda else None
    return {"gpu_reserved_gib": peak and round(peak, 2), "gpu_allocated_gib": used and round(used, 2)}


if __name__ == "__main__":
    main()
