"""Simulates 1,000 tokens of OPT-175B, every pass and every task of it, in bounded memory."""

from __future__ import annotations

import resource
import time

import common
from flexplan_planners.schedules.zigzag import ZigZag

from flexplan.cost import Rates
from flexplan.problem import Problem
from flexplan.simulation import simulate_graph
from flexplan.testing import policy_with


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--gen-len", type=int, default=1000)
    gen_len = parser.parse_args().gen_len
    problem = Problem.of(
        "facebook/opt-175b", gpu_mem="16G", cpu_mem="200G", disk_mem="1500G", prompt_len=512, gen_len=gen_len
    )
    # weights half on the host and half on disk, the cache on disk and attended on the host: 13 tasks a step
    policy = policy_with(32, 8, w=(0, 50), cache=(0, 0), act=(0, 100), sep_layer=False, cpu_cache_compute=True)
    graph = ZigZag().build(problem, policy)
    wall, cpu = time.perf_counter(), time.process_time()
    timeline = simulate_graph(graph, Rates(problem.hardware), keep=False)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    print(f"{gen_len} tokens, {timeline.num_tasks:,} tasks, {timeline.end_s:,.0f} s of the machine")
    print(f"{wall:.1f} s, {cpu:.1f} s of one core, {cpu / timeline.num_tasks * 1e6:.1f} us a task, peak {peak:.0f} MiB")


if __name__ == "__main__":
    main()
