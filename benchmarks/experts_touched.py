"""Of a mixture's experts, how many does a pass of few rows touch, and what would sending no others bring?

    python benchmarks/experts_touched.py [--hardware h100-pcie5] [--cpu-mem 128G] [--plan MODEL:GPU_MEM ...]

The first table is the share of a layer's experts that at least one row is routed to: if each is as likely as another,
and if the n-th most wanted one is as likely as 1/n (mean of --draws layers). The second plans models for so many
prompts of 512 tokens, 64 new: seconds of a decoding pass as planned, which sends all experts that are off the GPU, and
at the least if only the touched ones were sent. Those are known once a layer's attention is done, so their time on the
link is added to the rest: what computes, or what else the link brings, whichever is longer.
"""

from __future__ import annotations

import random
from heapq import nsmallest

import common

from flexplan import Problem, solve
from flexplan.errors import InfeasiblePlan
from flexplan.graph import GPU, H2D_WEIGHTS
from flexplan.model import weight_tensors

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MODELS = {"Mixtral-8x7B": (8, 2), "gpt-oss-120b": (128, 4), "Qwen3-30B-A3B": (128, 8), "DeepSeek-V3": (256, 8)}
PLANNED = ("mistralai/Mixtral-8x7B-v0.1:24G", "Qwen/Qwen3-30B-A3B:16G", "openai/gpt-oss-120b:16G")
NEW_TOKENS = 64


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--hardware", default="h100-pcie5")
    parser.add_argument("--cpu-mem", default="128G")
    parser.add_argument("--plan", nargs="*", default=PLANNED)
    parser.add_argument("--draws", type=int, default=20)
    args = parser.parse_args()
    print(f"{'experts touched, even / skewed':32}", *(f"{rows:>9}" for rows in ROWS))
    for name, (experts, each) in MODELS.items():
        shares = [(even(experts, each, n), skewed(experts, each, n, args.draws)) for n in ROWS]
        print(f"{name:20} {each:>3} of {experts:<4}", *(f"{100 * e:4.0f}/{100 * s:3.0f}%" for e, s in shares))
    for planned in args.plan:
        model, _, gpu_mem = planned.rpartition(":")
        print(f"\n{model}, {gpu_mem} of GPU memory: seconds of a pass, all sent and touched ones sent (even / skewed)")
        for rows in ROWS:
            print(f"{rows:5} prompts", passes(model, gpu_mem, rows, args.hardware, args.cpu_mem, args.draws))


def even(experts: int, each: int, rows: int) -> float:
    """Share of experts that rows touch, each expert being as likely as another."""
    return 1 - (1 - each / experts) ** rows


def skewed(experts: int, each: int, rows: int, draws: int) -> float:
    """The same where the n-th most wanted is as likely as 1/n; a row's experts are drawn without putting back."""
    draw, found = random.Random(0), 0
    for _ in range(draws):
        touched = set[int]()
        for _ in range(rows):
            waits = ((draw.expovariate(1 / (n + 1)), n) for n in range(experts))  # the first to come are drawn
            touched |= {n for _, n in nsmallest(each, waits)}
        found += len(touched)
    return found / draws / experts


def passes(model: str, gpu_mem: str, rows: int, hardware: str, cpu_mem: str, draws: int) -> str:
    """As planned, and at the least where only what is touched is sent."""
    budgets = {"gpu_mem": gpu_mem, "cpu_mem": cpu_mem, "disk_mem": 0}
    lengths = {"prompt_len": 512, "gen_len": NEW_TOKENS, "num_prompts": rows}
    problem = Problem.of(model, hardware=hardware, **lengths, **budgets)
    try:
        plan = solve(problem)
    except InfeasiblePlan as refusal:
        return str(refusal).splitlines()[0]
    s, count = problem.model, NEW_TOKENS - 1
    blocks = -(-rows // plan.policy.block_size)
    decode_s, busy = plan.prediction.decode_s / count / blocks, plan.prediction.lane_busy_s["decode"]
    link_s, gpu_s = (busy.get(lane, 0.0) / count / blocks for lane in (H2D_WEIGHTS, GPU))
    streamed = [t for t in weight_tensors(s) if t.layer >= 0]
    part = sum(t.nbytes for t in streamed if t.name.startswith("experts.")) / sum(t.nbytes for t in streamed)
    together = min(rows, plan.policy.block_size)
    shares = [f(s.num_experts, s.experts_per_token, together) for f in (even, lambda *a: skewed(*a, draws))]
    least = [max(gpu_s, link_s * (1 - part)) + link_s * part * share for share in shares]
    times = " / ".join(f"{seconds:6.3f} s ({decode_s / seconds:4.1f} x)" for seconds in least)
    return f"{decode_s:6.3f} s   {times}   block {plan.policy.gpu_batch_size} x {plan.policy.num_gpu_batches}"


if __name__ == "__main__":
    main()
