"""What a change costs: two installations of flexplan, by turns in processes of their own.

    python benchmarks/before_and_after.py old/.venv/bin/python .venv/bin/python [--turns 7]

Median seconds, and those of the fastest: the import, a solve of OPT-30B in a process that has solved
before, and the embedded model's generation on one core.
"""

from __future__ import annotations

import os
import subprocess
from statistics import median

import common

SOLVE = """
from flexplan import Problem, solve
problem = Problem.of("facebook/opt-30b", gpu_mem="16G", cpu_mem="200G", disk_mem="1500G")
solve(problem)
act = lambda: solve(problem)
"""
GENERATE = """
import tempfile
from flexplan import Policy
from flexplan_runtime import ExecutionEnv, OffloadedLM
from flexplan_runtime.embedded import tiny_opt_path
env = ExecutionEnv.create(tempfile.mkdtemp(), device="cpu", num_threads=1)
lm = OffloadedLM(tiny_opt_path(), env, tiny_opt_path(), Policy(4, 2), dtype="float32")
act = lambda: lm.complete([list(range(10, 26))] * 8, 16)
act()
"""
TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
PROGRAMS = {
    "import": TIMED.format("from flexplan import Problem, solve"),
    "solve": SOLVE + TIMED.format("act()"),
    "generate": GENERATE + TIMED.format("act()"),
}


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("before", help="the Python that has the flexplan to compare with")
    parser.add_argument("after")
    parser.add_argument("--turns", type=int, default=7)
    given = parser.parse_args()
    for name, program in PROGRAMS.items():
        found: dict[str, list[float]] = {"before": [], "after": []}
        for _ in range(given.turns):
            for which, kept in found.items():
                kept.append(seconds_of(getattr(given, which), program))
        told = [f"{which} {median(kept):.4f} ({min(kept):.4f})" for which, kept in found.items()]
        change = 100 * (median(found["after"]) / median(found["before"]) - 1)
        print(f"{name:16} {'  '.join(told)} s  {change:+.1f} %", flush=True)


def seconds_of(python: str, program: str) -> float:
    """What the program says that it took."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([python, "-c", program], env=env, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
