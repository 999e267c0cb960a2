"""Solving takes under a second: five models on three machines, the time of each step and the plan.

python benchmarks/solve_times.py [--planner search]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

from flexplan_planners.lp import LpPlanner

from flexplan.errors import InfeasiblePlan
from flexplan.planning import solve
from flexplan.problem import Problem

MODELS = (
    "facebook/opt-30b",
    "facebook/opt-175b",
    "meta-llama/Meta-Llama-3-70B",
    "mistralai/Mixtral-8x7B-v0.1",
    "Qwen/Qwen2.5-32B",
)
MACHINES = (("16G", "200G"), ("24G", "64G"), ("80G", "1T"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--planner", default="search")
    planner = parser.parse_args().planner
    print(f"{'model':30} {'gpu':>4} {'cpu':>5} {'lp s':>6} {'solve s':>8} {'tokens/s':>9}  block")
    for model in MODELS:
        for gpu, cpu in MACHINES:
            problem = Problem.of(model, gpu_mem=gpu, cpu_mem=cpu, disk_mem="1500G")
            lp_s = seconds(partial(LpPlanner().optima, problem))
            start = time.perf_counter()
            try:
                plan = solve(problem, planner)
                block = f"{plan.policy.gpu_batch_size}x{plan.policy.num_gpu_batches}"
                answer = f"{plan.prediction.tokens_per_s:9.2f}  {block}"
            except InfeasiblePlan as refusal:
                answer = f"{'-':>9}  infeasible: {', '.join(refusal.binding)}"
            print(f"{model:30} {gpu:>4} {cpu:>5} {lp_s:6.2f} {time.perf_counter() - start:8.2f} {answer}", flush=True)


def seconds(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
