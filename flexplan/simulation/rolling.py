"""A rolling job on paper: its passes are known from the lengths of its requests, and some of them stand for all.

Passes differ by who decodes and who comes in.  They are sorted by what they carry, cut into equal parts, and the middle
of each part is simulated behind the pass before it::

    seconds of the job  =  sum over parts of  passes in it x seconds of its middle
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from flexplan.cost import Rates
from flexplan.graph import TaskGraph, Timeline, never
from flexplan.placement import Layout, Placement, fewer_layers, lookahead
from flexplan.policy import Policy, rolling_block
from flexplan.problem import Problem, Workload
from flexplan.schedule import Boarding, Seats, sweep_of_boarding
from flexplan.simulation.bounds import busy_seconds
from flexplan.simulation.simulator import simulate_graph

SAMPLES = 24
_ALL_LAYERS = 8  # up to these, all are simulated
_FEW_LAYERS = 3


@dataclass(frozen=True, slots=True)
class JobTime:
    """Seconds of a job, of the work of each lane and resource in all its passes, and how many passes there are."""

    seconds: float
    lane_busy_s: Mapping[str, float]
    least_s: Mapping[str, float]
    passes: int

    @property
    def limit(self) -> str:
        """The lane or resource that needs the most: no order of the job's work is faster."""
        return max(self.least_s, key=lambda name: self.least_s[name])

    @property
    def bound_s(self) -> float:
        return self.least_s[self.limit]


def job_time(problem: Problem, policy: Policy, samples: int = SAMPLES) -> JobTime:
    """The seconds of a list of requests under a rolling policy."""
    boardings = boardings_of(problem.workload, policy)
    parts = _parts(boardings, samples)
    layers = problem.model.num_layers
    if layers <= _ALL_LAYERS:
        return _job_of(problem, policy, boardings, parts)
    step = max(2, lookahead(policy) + 1)
    few = fewer_layers(layers, policy, max(_FEW_LAYERS, step))
    one, two = (_job_of(problem.with_layers(n), policy, boardings, parts) for n in (few, few + step))
    return _reached(one, two, (layers - few) / step)


@lru_cache(maxsize=8)
def boardings_of(workload: Workload, policy: Policy) -> tuple[Boarding, ...]:
    """Who is there in each pass, where every request has its most tokens."""
    return _boardings(workload, policy.gpu_batch_size, policy.num_gpu_batches, policy.admit_tokens)


@lru_cache(maxsize=8)  # policies differ in shares, which change nothing here
def _boardings(
    workload: Workload, gpu_batch_size: int, num_gpu_batches: int, admit_tokens: int
) -> tuple[Boarding, ...]:
    block = rolling_block(workload, Policy(gpu_batch_size, num_gpu_batches))
    return tuple(Seats(block, workload, admit_tokens).boardings(never))


def _parts(boardings: Sequence[Boarding], samples: int) -> list[tuple[int, float]]:
    """Some passes, each with how many it stands for."""

    def load(n: int) -> tuple[int, int]:
        one = boardings[n]
        return sum(map(one.prompt_tokens, one.newcomers)), sum(map(one.contexts, one.guests))

    order = sorted(range(len(boardings)), key=load)
    count = min(samples, len(order))
    edges = [len(order) * n // count for n in range(count + 1)]
    return [(order[(lo + hi) // 2], hi - lo) for lo, hi in pairwise(edges)]


def _job_of(
    problem: Problem, policy: Policy, boardings: Sequence[Boarding], parts: Sequence[tuple[int, float]]
) -> JobTime:
    block, rates = rolling_block(problem.workload, policy), Rates(problem.hardware)
    placement = Placement.of(problem.model, policy, block)
    seconds, busy, least = 0.0, dict[str, float](), dict[str, float]()
    for n, times in parts:
        sweeps = [sweep_of_boarding(placement, boarding) for boarding in boardings[max(0, n - 1) : n + 1]]
        graph = TaskGraph.of("rolling", placement.live, Layout.of(placement).buffers, sweeps)
        run = simulate_graph(graph, rates, keep=False, sweeps=sweeps)
        before = run.sweep_end_s[sweeps[0].i] if n else 0.0
        seconds += times * (run.end_s - before)
        for name, work_s in busy_seconds(sweeps[-1].tasks, rates).items():
            least[name] = least.get(name, 0.0) + times * work_s
        share = times * (run.end_s - before) / run.end_s
        for lane, busy_s in run.lane_busy_s.items():
            busy[lane] = busy.get(lane, 0.0) + share * busy_s
    return JobTime(seconds, busy, least, len(boardings))


def _reached(few: JobTime, more: JobTime, times: float) -> JobTime:
    """``few``, and ``times`` what ``more`` adds to it."""

    def reach(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
        return {name: a.get(name, 0.0) + times * (b[name] - a.get(name, 0.0)) for name in b}

    seconds = few.seconds + times * (more.seconds - few.seconds)
    return JobTime(seconds, reach(few.lane_busy_s, more.lane_busy_s), reach(few.least_s, more.least_s), few.passes)


def job_timeline(problem: Problem, policy: Policy) -> Timeline:
    """The sums of a whole job, as a timeline has them."""
    found = job_time(problem, policy)
    return Timeline(end_s=found.seconds, sweep_end_s={1: found.seconds}, lane_busy_s=dict(found.lane_busy_s))
