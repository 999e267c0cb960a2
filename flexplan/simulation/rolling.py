"""A rolling job on paper: its passes are known from the lengths of its requests, and some of them stand for all.

Passes differ by who decodes and who comes in.  They are sorted by what they carry, cut into parts, and the middle of
each part is simulated, on few layers and on more, behind the pass before it::

    seconds of the job  =  sum over parts of  passes in it x (least seconds of its middle + what that waits beyond them)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from flexplan.cost import Rates
from flexplan.graph import LANES, Sweep, TaskGraph, Timeline, never
from flexplan.placement import Layout, Placement, fewer_layers, lookahead
from flexplan.policy import Block, Policy, rolling_block
from flexplan.problem import Problem, Workload
from flexplan.schedule import Boarding, Seats, sweep_of_boarding
from flexplan.simulation.bounds import busy_seconds, reached
from flexplan.simulation.simulator import simulate_graph

SAMPLES = 24


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
    block = rolling_block(problem.workload, policy)
    return time_of_passes(problem, policy, block, boardings_of(problem.workload, policy), samples)


def time_of_passes(
    problem: Problem, policy: Policy, block: Block, boardings: Sequence[Boarding], samples: int = SAMPLES
) -> JobTime:
    """The seconds of these passes over the seats of a block."""
    seconds, least = 0.0, dict[str, float]()
    for n, times in _parts(boardings, samples):
        work = _least_of_pass(problem, policy, block, boardings[n])
        waits = _waits(problem, policy, block, boardings[max(0, n - 1) : n + 1])
        seconds += times * (max(work.values()) + waits)
        for name, work_s in work.items():
            least[name] = least.get(name, 0.0) + times * work_s
    busy = {lane: min(seconds, work_s) for lane, work_s in least.items() if lane in LANES}
    return JobTime(seconds, busy, least, len(boardings))


def least_job_s(problem: Problem, policy: Policy, samples: int) -> float:
    """Seconds that no order of the tasks of its passes, one after the other, can beat: cheap to know."""
    boardings, block = boardings_of(problem.workload, policy), rolling_block(problem.workload, policy)
    found = ((times, _least_of_pass(problem, policy, block, boardings[n])) for n, times in _parts(boardings, samples))
    return sum(times * max(work.values()) for times, work in found)


def _least_of_pass(problem: Problem, policy: Policy, block: Block, boarding: Boarding) -> dict[str, float]:
    """Seconds of every lane and resource in one pass: a turn of layers adds what the next one does."""
    model, rates = problem.model, Rates(problem.hardware)
    few = model.first_of_all_kinds
    more = few + model.layer_period
    if model.num_layers <= more:
        return busy_seconds(_sweep(problem, policy, block, boarding).tasks, rates)
    if more == 2:  # alike: the second of two layers stands for the others
        placement = Placement.of(problem.with_layers(2).model, policy, block)
        tasks = sweep_of_boarding(placement, boarding).tasks
        second = {layer.j for layer in placement.layers if layer.depth == 1}
        both, one = busy_seconds(tasks, rates), busy_seconds((task for task in tasks if task.j in second), rates)
        return {name: s + (model.num_layers - 2) * one.get(name, 0.0) for name, s in both.items()}
    less, found = (
        busy_seconds(_sweep(problem.with_layers(n), policy, block, boarding).tasks, rates) for n in (few, more)
    )
    return reached(less, found, (model.num_layers - few) / (more - few))


def _waits(problem: Problem, policy: Policy, block: Block, boardings: Sequence[Boarding]) -> float:
    """Seconds that a pass waits beyond its least, behind the one before it.

    Some is waited between two passes and some at each layer: as from few layers to more, so on to all.
    """
    model, step = problem.model, max(2 * max(2, lookahead(policy) + 1), problem.model.layer_period)
    few, more = (min(model.num_layers, fewer_layers(model.num_layers, policy, n)) for n in (step, 2 * step))
    waits = _waits_of(_shallow(problem, few), policy, block, boardings)
    if more > few:
        further = _waits_of(_shallow(problem, more), policy, block, boardings)
        waits += (model.num_layers - few) * (further - waits) / (more - few)
    return max(0.0, waits)


def _shallow(problem: Problem, layers: int) -> Problem:
    """Of dense layers before experts none: they are few of many, and would be most of a few."""
    model = problem.model
    alike = model if layers == model.num_layers else model.model_copy(update={"dense_layers": 0})
    return problem.model_copy(update={"model": alike}).with_layers(layers)


def _waits_of(problem: Problem, policy: Policy, block: Block, boardings: Sequence[Boarding]) -> float:
    sweeps = [_sweep(problem, policy, block, boarding) for boarding in boardings]
    placement = Placement.of(problem.model, policy, block)
    graph = TaskGraph.of("rolling", placement.live, Layout.of(placement).buffers, sweeps)
    rates = Rates(problem.hardware)
    run = simulate_graph(graph, rates, keep=False, sweeps=sweeps)
    before = run.sweep_end_s[sweeps[0].i] if len(sweeps) > 1 else 0.0
    return run.end_s - before - max(busy_seconds(sweeps[-1].tasks, rates).values())


def _sweep(problem: Problem, policy: Policy, block: Block, boarding: Boarding) -> Sweep:
    return sweep_of_boarding(Placement.of(problem.model, policy, block), boarding)


@lru_cache(maxsize=8)
def boardings_of(workload: Workload, policy: Policy) -> tuple[Boarding, ...]:
    """Who is there in each pass, where every answer is as long as is likely: its most, if nothing else is expected."""
    plain = Policy(policy.gpu_batch_size, policy.num_gpu_batches)
    return _boardings(workload, replace(plain, admit_tokens=policy.admit_tokens, room_percent=policy.room_percent))


@lru_cache(maxsize=8)  # policies differ in shares, which change nothing here
def _boardings(workload: Workload, policy: Policy) -> tuple[Boarding, ...]:
    block = rolling_block(workload, policy)
    lens = workload.likely_lens_of(range(workload.num_prompts or block.num_rows))
    return tuple(one for one in Seats(block, workload, policy, lens).boardings(never) if not one.waits)


def _parts(boardings: Sequence[Boarding], samples: int) -> list[tuple[int, int]]:
    """Some passes, each with how many it stands for.

    Those that nobody comes in are cut into parts of equally many, by the tokens that they attend to, the others into
    parts that take in as many tokens: of few passes in which very many come in, none stands for another.
    """
    loads = [(sum(map(one.prompt_tokens, one.newcomers)), sum(one.contexts.values())) for one in boardings]
    plain = sorted((n for n, load in enumerate(loads) if not load[0]), key=loads.__getitem__)
    taking = sorted((n for n, load in enumerate(loads) if load[0]), key=loads.__getitem__)
    for_taking = min(max(1, samples // 2, samples - len(plain)), len(taking))
    groups = [*_cut(plain, [1] * len(plain), max(1, samples - for_taking))]
    groups += _cut(taking, [loads[n][0] for n in taking], max(1, for_taking))
    return [(_middle([loads[n] for n in group], group), len(group)) for group in groups]


def _cut(order: Sequence[int], weights: Sequence[int], count: int) -> Iterator[Sequence[int]]:
    """Up to ``count`` runs of these of about equal weight."""
    total, first, taken, part = sum(weights), 0, 0, 1
    for n, weight in enumerate(weights):
        taken += weight
        if n + 1 == len(order) or taken * count >= part * total:
            yield order[first : n + 1]
            first, part = n + 1, taken * count // total + 1


def _middle(loads: Sequence[tuple[int, int]], group: Sequence[int]) -> int:
    """Of a group of passes the one whose load is nearest to the mean."""
    means = [sum(each) / len(loads) or 1.0 for each in zip(*loads, strict=True)]
    return min(
        zip(loads, group, strict=True),
        key=lambda pair: sum(abs(x / m - 1) for x, m in zip(pair[0], means, strict=True)),
    )[1]


def job_timeline(problem: Problem, policy: Policy) -> Timeline:
    """The sums of a whole job, as a timeline has them."""
    found = job_time(problem, policy)
    return Timeline(end_s=found.seconds, sweep_end_s={1: found.seconds}, lane_busy_s=dict(found.lane_busy_s))
