"""Passes of a block, timed on graphs of few of its layers; of passes that are alike two are written, however many run.

Layers are alike: what a few add to a few, each further one costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import groupby, takewhile
from math import lcm

from flexplan.cost import Rates
from flexplan.graph import Sweep, TaskGraph, Timeline
from flexplan.placement import Placement, fewer_layers, lookahead
from flexplan.policy import Policy, fill_blocks
from flexplan.problem import Problem
from flexplan.schedule import Schedule
from flexplan.simulation.alike import Alike
from flexplan.simulation.bounds import busy_seconds, reached
from flexplan.simulation.simulator import simulate_graph, simulate_programs
from flexplan.units import round_up

_ALL_LAYERS = 16  # up to these, all are simulated
_FEW_LAYERS = 2
_FEW_RUNS = 4


class Passes:
    """Passes of a block, by the micro-batches ``ks`` or by all of them; of many layers, what they add up to."""

    def __init__(
        self, problem: Problem, policy: Policy, schedule: Schedule, rates: Rates, ks: tuple[int, ...] | None = None
    ) -> None:
        self.problem = problem
        self.policy = policy
        self.schedule = schedule
        self.rates = rates
        self.ks = ks
        self._known: dict[int, _FewLayers] = {}

    def of_tokens(self, tokens: range) -> Timeline:
        """The timeline of these passes one after the other."""
        return self._of_layers(lambda few: few.of_tokens(tokens), tokens)

    def pair(self, i: int) -> Timeline:
        """That of passes i and i + 1 of the decoding, neither the prefill nor the last pass."""
        return self._of_layers(lambda few: few.pair(i), range(i, i + 2))

    def bends(self) -> list[int]:
        """Passes, neither the first nor one of the last, after which a window is full: of many, three."""
        block = next(fill_blocks(self.problem.workload, self.policy))
        placement = Placement.of(self.problem.model, self.policy, block)
        ks = range(len(block.batches)) if self.ks is None else self.ks
        full = {room - block.batches[k].prompt_len for k in ks for room in placement.rings(k)}
        found = sorted(i for i in full if 1 < i < self.problem.workload.gen_len - 3)
        return sorted({found[0], found[len(found) // 2], found[-1]}) if found else []

    def busy_seconds(self, i: int) -> dict[str, float]:
        """Seconds that pass i takes of every lane and resource at the least."""
        layers = self.problem.model.num_layers
        if self._all_layers:
            return self._few(layers).busy_seconds(i)
        few, more = self._counts()
        return reached(self._few(few).busy_seconds(i), self._few(more).busy_seconds(i), (layers - few) / (more - few))

    @property
    def _all_layers(self) -> bool:
        return self.problem.model.num_layers <= _ALL_LAYERS or self.policy.experts_on_demand

    def _few(self, num_layers: int) -> _FewLayers:
        if num_layers not in self._known:
            graph = self.schedule.build(self.problem.with_layers(num_layers), self.policy)
            self._known[num_layers] = _FewLayers(graph, self.rates, self.ks, self.problem.workload.gen_len - 2)
        return self._known[num_layers]

    def _counts(self, times: int = 1) -> tuple[int, int]:
        """Two numbers of layers whose difference stands for all; where something hides that, take several ``times``."""
        slots = lookahead(self.policy) + 1
        least = max(_FEW_LAYERS, slots)  # of fewer layers than slots, a pass is not like one of many
        count = fewer_layers(self.problem.model.num_layers, self.policy, times * least)
        return count, count + times * round_up(least, lcm(slots, self.problem.model.layer_period))

    def _of_layers(self, timeline: Callable[[_FewLayers], Timeline], tokens: range) -> Timeline:
        layers, times, known = self.problem.model.num_layers, 1, dict[int, Timeline]()
        if self._all_layers:
            return timeline(self._few(layers))
        while True:
            few, more = self._counts(times)
            one = known.get(few) or timeline(self._few(few))
            other = known[more] = timeline(self._few(more))
            if more >= layers or other.end_s - one.end_s >= 0.99 * self._least_of_more(few, more, tokens):
                return stretched(one, other, (layers - few) / (more - few))
            times *= 2

    def _least_of_more(self, few: int, more: int, tokens: range) -> float:
        """Seconds that the layers which one number has beyond another take of each pass's busiest lane or resource.

        Where they seem to take less, something else is longer than the few, or runs beside another pass of the few.
        """
        found = 0.0
        for i in tokens:
            less = self._few(few).busy_seconds(i)
            found += max(seconds - less.get(name, 0.0) for name, seconds in self._few(more).busy_seconds(i).items())
        return found


class _FewLayers:
    """The same of a graph; its passes 1 .. ``last`` are alike, run by run, where the schedule says so."""

    def __init__(self, graph: TaskGraph, rates: Rates, ks: tuple[int, ...] | None, last: int) -> None:
        self.graph = graph
        self.rates = rates
        self.ks = ks
        self.last = last
        self._known: dict[int, Alike] = {}  # by the first pass of a run

    def of_tokens(self, tokens: range) -> Timeline:
        return simulate_graph(self.graph, self.rates, keep=False, sweeps=self._sweeps(tokens))

    def pair(self, i: int) -> Timeline:
        alike = self._alike(i)
        if alike is None or alike is not self._alike(i + 1):
            return self.of_tokens(range(i, i + 2))
        return simulate_programs([alike.program(i, self.rates), alike.next_program(i + 1, self.rates)])

    def busy_seconds(self, i: int) -> dict[str, float]:
        alike = self._alike(i)
        if alike is None:
            return busy_seconds((task for sweep in self._sweeps(range(i, i + 1)) for task in sweep.tasks), self.rates)
        return alike.busy_seconds(i, self.rates)

    def _sweeps(self, tokens: range) -> Iterator[Sweep]:
        wanted = (sweep for sweep in self.graph.sweeps() if self.ks in (None, sweep.ks))
        return (sweep for sweep in wanted if sweep.i in tokens)

    def _alike(self, i: int) -> Alike | None:
        """What is known of pass i from the first two of its run; None where it must be written itself."""
        run = next((run for run in self._runs if run[0].i <= i <= run[-1].i), None)
        if run is None or len(run) < 2:
            return None
        if run[0].i not in self._known:
            self._known[run[0].i] = Alike(self.graph.buffers, run[0], run[1])
        alike = self._known[run[0].i]
        return alike if alike.holds else None

    @cached_property
    def _runs(self) -> list[list[Sweep]]:
        """The passes that are alike, run by run; none where there is more than a few: each takes two to be written."""
        wanted = takewhile(lambda sweep: sweep.i <= self.last, self._sweeps(range(1, self.last + 1)))
        found = list(wanted)
        runs = [list(run) for _, run in groupby(found, key=lambda sweep: sweep.pattern)]
        complete = [sweep.i for sweep in found] == list(range(1, self.last + 1))
        return runs if complete and len(runs) <= _FEW_RUNS and all(run[0].pattern for run in runs) else []


def stretched(few: Timeline, more: Timeline, times: float) -> Timeline:
    """``few``, and ``times`` what ``more`` adds to it."""
    ends = {i: end for i, end in few.sweep_end_s.items() if i in more.sweep_end_s}
    return Timeline(
        end_s=few.end_s + times * (more.end_s - few.end_s),
        sweep_end_s={i: end + times * (more.sweep_end_s[i] - end) for i, end in ends.items()},
        lane_busy_s=reached(few.lane_busy_s, {**few.lane_busy_s, **more.lane_busy_s}, times),
    )
