"""Of a mixture's experts, how many does a pass of few rows touch, and what does sending no others bring?

    python benchmarks/experts_touched.py [--hardware h100-pcie5] [--cpu-mem 128G] [--plan MODEL:GPU_MEM ...]

The first table is the share of a layer's experts that at least one row is routed to: if each is as likely as another,
and if the n-th most wanted one is as likely as 1/n (mean of --draws layers).  The second plans models for so many
prompts of 512 tokens, 64 new: seconds that a token of all of them takes in decoding, where all experts are sent ahead
and where those that routers chose are sent (`experts_on_demand`), each being as likely as another; ``*``: and a planner
that is free to choose does so.
"""

from __future__ import annotations

import random
from heapq import nsmallest

import common
from flexplan_planners.search_planner import SearchPlanner

from flexplan import Plan, Problem
from flexplan.errors import InfeasiblePlan

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
        print(f"\n{model}, {gpu_mem} of GPU memory: seconds of a token, experts ahead and on demand")
        for rows in ROWS:
            print(f"{rows:5} prompts", passes(model, gpu_mem, rows, args.hardware, args.cpu_mem))


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


def passes(model: str, gpu_mem: str, rows: int, hardware: str, cpu_mem: str) -> str:
    """Both ways, and which is taken."""
    budgets = {"gpu_mem": gpu_mem, "cpu_mem": cpu_mem, "disk_mem": 0}
    lengths = {"prompt_len": 512, "gen_len": NEW_TOKENS, "num_prompts": rows}
    problem = Problem.of(model, hardware=hardware, **lengths, **budgets)
    ahead = token_seconds(SearchPlanner(experts_on_demand=(False,)).plan(problem))
    try:
        on_demand = token_seconds(SearchPlanner(experts_on_demand=(True,)).plan(problem))
    except InfeasiblePlan:  # nearly all are touched, so none is planned
        return f"{ahead:6.3f} s"
    taken = SearchPlanner().plan(problem).policy.experts_on_demand
    return f"{ahead:6.3f} s   {on_demand:6.3f} s{'*' if taken else ''}   {ahead / on_demand:4.1f} x"


def token_seconds(plan: Plan) -> float:
    """Of a token of all prompts, in the mean of decoding."""
    return plan.prediction.decode_s / (NEW_TOKENS - 1)


if __name__ == "__main__":
    main()
