"""What the first passes of a block take longer than later ones, by kind of task.

python benchmarks/first_passes.py --hardware hardware.json ROW [--eager]

A row is one of predicted_and_measured.py.  In the first pass of decoding a step of the GPU is launched kernel by
kernel, in the second it is captured, from the third on replayed; a second block of the same shape goes on replaying.
If that is what the first passes take longer for, ``project`` and ``compute`` are slower in them, ``attend`` is not, and
the second block's first passes are like the others.  With ``--eager`` nothing is captured: all passes are like the
first.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import median

import common
from flexplan_runtime import ExecutionEnv, OffloadedLM
from flexplan_runtime.execute import capture
from predicted_and_measured import planned, took

from flexplan.graph import Span, Timeline
from flexplan.units import parse_size

PASSES = (1, 2, 3, 4, 8)
KINDS = ("project", "compute", "attend", "gather", "load_attention", "send_query", "store_cache", "load_weight")


def main() -> None:
    args = arguments()
    if args.eager:
        capture._MOST = 0
    plan, dtype = planned(args.row, args)
    gpu_mem = args.row.split(":")[2]
    if common.is_cuda(args.device):
        common.cap_gpu(parse_size(gpu_mem))
    env = ExecutionEnv.create(
        args.offload_dir, gpu_mem=gpu_mem, cpu_mem=args.cpu_mem, disk_mem=args.disk_mem, device=args.device
    )
    with OffloadedLM(plan.problem.model.name, env, "_DUMMY_", plan, dtype=dtype) as lm:
        prompts = common.prompts_of(lm.shape.vocab_size, plan.policy.block_size, args.prompt_len)
        for block in ("first", "second"):
            lm.generate(prompts, max_new_tokens=args.gen_len, trace=True)
            print(f"{block} block: passes of", took(lm.timeline.sweep_end_s)[: max(PASSES)], "s")
            tell(lm.timeline)


def arguments() -> argparse.Namespace:
    parser = common.parser(__doc__)
    parser.add_argument("row")
    parser.add_argument("--hardware", default="h200-pcie5")
    parser.add_argument("--cpu-mem", default="110G")
    parser.add_argument("--disk-mem", default="50G")
    parser.add_argument("--prompt-len", type=int, default=512)
    parser.add_argument("--gen-len", type=int, default=10)
    parser.add_argument("--offload-dir", default="offload")
    parser.add_argument("--device")
    parser.add_argument("--eager", action="store_true")
    return parser.parse_args()


def tell(timeline: Timeline) -> None:
    """A line a kind: of each pass milliseconds of its tasks together, and of one in the median."""
    for kind in KINDS:
        found = [[s for s in timeline.spans if s.i == i and s.name.startswith(f"{kind}@")] for i in PASSES]
        if any(found):
            print(f"  {kind:14}", *(cell(i, spans) for i, spans in zip(PASSES, found, strict=True)))


def cell(i: int, spans: Sequence[Span]) -> str:
    """Of one pass."""
    took_ms = [1e3 * (s.end_s - s.start_s) for s in spans] or [0.0]
    return f"  {i}: {sum(took_ms):8.1f} ({median(took_ms):6.3f})"


if __name__ == "__main__":
    main()
