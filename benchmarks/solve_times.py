"""Solving takes under a second, and the command under two: five models on three machines.

python benchmarks/solve_times.py [--planner search] [--processes]

``cpu s`` is what `solve` takes inside a process that has solved before, ``wall s`` the same by the clock, and
``process s`` the whole command, with ``--processes``.
"""

from __future__ import annotations

import subprocess
import sys
import time

import common

from flexplan.errors import InfeasiblePlan
from flexplan.plan import solve
from flexplan.problem import Problem

MODELS = (
    "facebook/opt-30b",
    "facebook/opt-175b",
    "meta-llama/Meta-Llama-3-70B",
    "mistralai/Mixtral-8x7B-v0.1",
    "Qwen/Qwen2.5-32B",
)
MACHINES = (("16G", "200G"), ("24G", "64G"), ("80G", "1T"))
DISK = "1500G"


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--planner", default="search")
    parser.add_argument("--processes", action="store_true", help="time the command, too")
    given = parser.parse_args()
    answer(MODELS[0], "80G", "1T", given.planner)  # imports
    print(f"{'model':28} {'gpu':>4} {'cpu':>5} {'cpu s':>6} {'wall s':>6} {'process s':>9} {'tokens/s':>9}  block")
    for model in MODELS:
        for gpu, cpu in MACHINES:
            start, begin = time.perf_counter(), time.process_time()
            found = answer(model, gpu, cpu, given.planner)
            cpu_s, wall_s = time.process_time() - begin, time.perf_counter() - start
            process = f"{process_s(model, gpu, cpu, given.planner):9.2f}" if given.processes else f"{'-':>9}"
            print(f"{model:28} {gpu:>4} {cpu:>5} {cpu_s:6.2f} {wall_s:6.2f} {process} {found}", flush=True)


def answer(model: str, gpu: str, cpu: str, planner: str) -> str:
    try:
        plan = solve(Problem.of(model, gpu_mem=gpu, cpu_mem=cpu, disk_mem=DISK), planner)
    except InfeasiblePlan as refusal:
        return f"{'-':>9}  infeasible: {', '.join(refusal.binding)}"
    return f"{plan.prediction.tokens_per_s:9.2f}  {plan.policy.gpu_batch_size}x{plan.policy.num_gpu_batches}"


def process_s(model: str, gpu: str, cpu: str, planner: str) -> float:
    command = "from flexplan.cli.app import main; main()"
    budgets = ["--gpu-mem", gpu, "--cpu-mem", cpu, "--disk-mem", DISK]
    asked = [sys.executable, "-c", command, "solve", "--model", model, *budgets, "--planner", planner]
    quiet = subprocess.DEVNULL
    return common.seconds(lambda: subprocess.run(asked, check=False, stdout=quiet, stderr=quiet))


if __name__ == "__main__":
    main()
