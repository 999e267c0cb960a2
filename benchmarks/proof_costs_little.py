"""What proving a graph costs: milliseconds a pass that is executed on names, and a pass that repeats; and of a solve.

    python benchmarks/proof_costs_little.py --model facebook/opt-30b --block 10x9

Beside it what writing the pass down takes, what the pass is predicted to take, and the share of the run that the proof
of all passes is.  It runs on the thread that writes passes down while the lanes are at the two before.
"""

from __future__ import annotations

import gc
import time

import common

from flexplan.plan import Plan
from flexplan.policy import fill_blocks
from flexplan.problem import Problem
from flexplan.proof import Proof
from flexplan.schedule import placement_of
from flexplan.testing import policy_with


def main() -> None:
    parser = common.parser(__doc__, model="facebook/opt-30b")
    parser.add_argument("--block", default="10x9", help="micro-batch size x micro-batches")
    parser.add_argument("--gen-len", type=int, default=32)
    args = parser.parse_args()
    rows, batches = map(int, args.block.split("x"))
    policy = policy_with(rows, batches, w=(20, 80), cache=(0, 100), act=(100, 0), cpu_cache_compute=True)
    problem = Problem.of(args.model, gpu_mem="16G", cpu_mem="200G", gen_len=args.gen_len)
    plan = Plan.of(problem, policy)
    graph = plan.graph
    proof = Proof(placement_of(graph, problem.model, policy, next(fill_blocks(problem.workload, policy))))
    writing, proving, tasks = [], [], 0
    gc.disable()  # as a run holds the collector back
    for sweep in graph.sweeps():
        start = time.process_time()
        tasks = max(tasks, len(sweep.tasks))
        written = time.process_time()
        proof.sweep(sweep)
        writing.append(written - start)
        proving.append(time.process_time() - written)
    proof.finish(lambda k: False)
    repeated = sorted(proving)[: len(proving) // 2]
    print(f"{args.model} {args.block}, {len(proving)} passes of up to {tasks} tasks, seconds of one core:")
    print(f"written down   {1e3 * sum(writing) / len(writing):7.1f} ms a pass")
    print(
        f"executed       {1e3 * max(proving):7.1f} ms at most; the first two, as in a solve, {sum(proving[:2]):.2f} s"
    )
    print(f"repeated       {1e3 * sum(repeated) / len(repeated):7.1f} ms")
    run_s = plan.prediction.total_s
    share = 100 * sum(proving) / run_s
    print(f"all of them    {sum(proving):7.2f} s beside a run of {run_s:.1f} s (predicted): {share:.1f} %")


if __name__ == "__main__":
    main()
