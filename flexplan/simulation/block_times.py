"""The seconds of a block, phase by phase: its task graph simulated, of many passes and layers only a few.

Passes are alike, and the price of a token grows as its keys and values do (`decoding`); so are layers (`passes`), and
many micro-batches (`fewer_batches`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from flexplan.cost import Rates
from flexplan.graph import Timeline
from flexplan.policy import Policy, fill_blocks
from flexplan.problem import Problem
from flexplan.schedule import Schedule
from flexplan.simulation.decoding import decode_seconds, knots, stands_for
from flexplan.simulation.fewer_batches import numbers_of_few, of_few
from flexplan.simulation.passes import Passes, stretched

PhaseName = Literal["prefill", "decode"]
PHASES: tuple[PhaseName, ...] = ("prefill", "decode")

_ALL_TOKENS = 4  # up to these, all are simulated
_FEW_LAYERS = 2


@dataclass(frozen=True, slots=True)
class Phase:
    """Seconds of all passes of a phase, and a timeline of those that were simulated."""

    seconds: float
    sample: Timeline

    def busy_s(self) -> dict[str, float]:
        """Seconds that each lane works: in all of it as in the sample."""
        times = self.seconds / self.sample.end_s if self.sample.end_s > 0 else 0.0
        return {lane: times * busy for lane, busy in self.sample.lane_busy_s.items()}


class BlockTimes:
    """The phases of one block, each simulated when it is asked for; many alike micro-batches are known from few."""

    def __init__(self, problem: Problem, policy: Policy, schedule: Schedule, rates: Rates) -> None:
        numbers = numbers_of_few(problem, policy)
        self._times = 0.0  # what the second block adds to the first
        if numbers is None:
            self._blocks = [_Block(problem, policy, schedule, rates)]
        else:
            self._blocks = [_Block(*of_few(problem, policy, schedule, n), rates) for n in numbers]
            self._times = (policy.num_gpu_batches - numbers[0]) / (numbers[1] - numbers[0])

    def phase(self, name: PhaseName) -> Phase:
        """One of `PHASES`."""
        first, *others = (b.prefill if name == "prefill" else b.decode for b in self._blocks)
        for other in others:
            seconds = first.seconds + self._times * (other.seconds - first.seconds)
            first = Phase(seconds, stretched(first.sample, other.sample, self._times))
        return first


class _Block:
    """A block as it is: all passes of a few tokens; of more, for each set of micro-batches that run together, some."""

    def __init__(self, problem: Problem, policy: Policy, schedule: Schedule, rates: Rates) -> None:
        self.problem = problem
        self.tokens = problem.workload.gen_len
        sets = {None: 1} if self.tokens <= _ALL_TOKENS else dict(_batch_sets(problem, policy, schedule))
        self.passes = [(Passes(problem, policy, schedule, rates, ks), times) for ks, times in sets.items()]

    @cached_property
    def prefill(self) -> Phase:
        return _together((times, _prefill(passes)) for passes, times in self.passes)

    @cached_property
    def decode(self) -> Phase:
        if self.tokens <= _ALL_TOKENS:
            whole, first = self.passes[0][0].of_tokens(range(self.tokens)), self.prefill.sample
            return Phase(whole.end_s - first.end_s, _less(whole, first))
        return _together((times, _decoding(passes, self.tokens - 1)) for passes, times in self.passes)


def _together(phases: Iterable[tuple[int, Phase]]) -> Phase:
    """The seconds of all sets; the last of them is the sample."""
    found = list(phases)
    return Phase(sum(times * phase.seconds for times, phase in found), found[-1][1].sample)


def _prefill(passes: Passes) -> Phase:
    first = passes.of_tokens(range(1))
    return Phase(first.end_s, first)


def _decoding(passes: Passes, last: int) -> Phase:
    """The passes 1 .. last."""
    least = {i: passes.busy_seconds(i) for i in (1, *passes.bends(), last - 1)}  # nothing is fetched after the last one
    seconds, runs = dict[int, float](), dict[int, Timeline]()
    for i in knots(last, least):
        before = min(max(1, i - 1), last - 2)  # neither the prefill nor the last pass
        run = runs[before + 1] = passes.pair(before)
        seconds[before + 1] = run.sweep_end_s[before + 1] - run.sweep_end_s[before]
    return Phase(decode_seconds(last, least, seconds), _weighted(runs, stands_for(last, list(runs))))


def _weighted(runs: Mapping[int, Timeline], weights: Mapping[int, float]) -> Timeline:
    """The sum of some timelines, each as often as it counts."""
    whole = Timeline()
    for i, run in runs.items():
        whole.end_s += weights[i] * run.end_s
        for lane, seconds in run.lane_busy_s.items():
            whole.lane_busy_s[lane] = whole.lane_busy_s.get(lane, 0.0) + weights[i] * seconds
    return whole


def _batch_sets(problem: Problem, policy: Policy, schedule: Schedule) -> Iterator[tuple[tuple[int, ...], int]]:
    """The micro-batches that share a pass, and how many such sets are alike."""
    batches = next(fill_blocks(problem.workload, policy)).batches
    few = problem.with_layers(min(problem.model.num_layers, _FEW_LAYERS)).with_most_tokens(_ALL_TOKENS)
    sets = {sweep.ks: None for sweep in schedule.build(few, policy).sweeps()}
    shapes = {ks: tuple((batches[k].num_rows, batches[k].prompt_len) for k in ks) for ks in sets}
    first = {shape: ks for ks, shape in reversed(shapes.items())}
    for shape, times in Counter(shapes.values()).items():
        yield first[shape], times


def _less(more: Timeline, less: Timeline) -> Timeline:
    """Busy seconds that the longer run has beyond the shorter one."""
    busy = {lane: seconds - less.lane_busy_s.get(lane, 0.0) for lane, seconds in more.lane_busy_s.items()}
    return Timeline(end_s=more.end_s - less.end_s, lane_busy_s=busy)
