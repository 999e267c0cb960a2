"""Passes of a block, timed on graphs of few of its layers; of passes that are alike two are written, however many run.

Layers are alike: what a few add to a few, each further one costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import takewhile

from flexplan.cost import Rates
from flexplan.graph import Sweep, TaskGraph, Timeline
from flexplan.placement import fewer_layers, lookahead
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.schedule import Schedule
from flexplan.simulation.alike import Alike
from flexplan.simulation.bounds import busy_seconds, reached
from flexplan.simulation.simulator import simulate_graph, simulate_programs

_ALL_LAYERS = 16  # up to these, all are simulated
_FEW_LAYERS = 2
_SURELY = 0.9  # of the layers from which on something would show: with fewer it is not worth a try


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
        return self._of_layers(lambda few: few.of_tokens(tokens))

    def pair(self, i: int) -> Timeline:
        """That of passes i and i + 1 of the decoding, neither the prefill nor the last pass."""
        return self._of_layers(lambda few: few.pair(i))

    def busy_seconds(self, i: int) -> dict[str, float]:
        """Seconds that pass i takes of every lane and resource at the least."""
        layers = self.problem.model.num_layers
        if layers <= _ALL_LAYERS:
            return self._few(layers).busy_seconds(i)
        few, more = self._counts()
        return reached(self._few(few).busy_seconds(i), self._few(more).busy_seconds(i), (layers - few) / (more - few))

    def _few(self, num_layers: int) -> _FewLayers:
        if num_layers not in self._known:
            graph = self.schedule.build(self.problem.with_layers(num_layers), self.policy)
            self._known[num_layers] = _FewLayers(graph, self.rates, self.ks, self.problem.workload.gen_len - 2)
        return self._known[num_layers]

    def _counts(self, times: int = 1) -> tuple[int, int]:
        """Two numbers of layers whose difference stands for all; where something hides that, take several ``times``."""
        step = times * max(2, lookahead(self.policy) + 1)  # of fewer layers than slots, a pass is not like one of many
        count = fewer_layers(self.problem.model.num_layers, self.policy, times * max(_FEW_LAYERS, step // times))
        return count, count + step

    def _of_layers(self, timeline: Callable[[_FewLayers], Timeline]) -> Timeline:
        layers, times, known = self.problem.model.num_layers, 1, dict[int, Timeline]()
        if layers <= _ALL_LAYERS:
            return timeline(self._few(layers))
        while True:
            few, more = self._counts(times)
            one = known.get(few) or timeline(self._few(few))
            other = known[more] = timeline(self._few(more))
            if not _hides_something(one, other) or more >= layers:
                return stretched(one, other, (layers - few) / (more - few))
            shown = shows_at(few, one, more, other)
            times *= 2
            while shown < layers and self._counts(times)[1] < _SURELY * shown:
                times *= 2


class _FewLayers:
    """The same of a graph; its passes 1 .. ``last`` are alike where the schedule says so."""

    def __init__(self, graph: TaskGraph, rates: Rates, ks: tuple[int, ...] | None, last: int) -> None:
        self.graph = graph
        self.rates = rates
        self.ks = ks
        self.last = last

    def of_tokens(self, tokens: range) -> Timeline:
        return simulate_graph(self.graph, self.rates, keep=False, sweeps=self._sweeps(tokens))

    def pair(self, i: int) -> Timeline:
        if self._alike is None:
            return self.of_tokens(range(i, i + 2))
        return simulate_programs([self._alike.program(i, self.rates), self._alike.next_program(i + 1, self.rates)])

    def busy_seconds(self, i: int) -> dict[str, float]:
        if self._alike is None:
            return busy_seconds((task for sweep in self._sweeps(range(i, i + 1)) for task in sweep.tasks), self.rates)
        return self._alike.busy_seconds(i, self.rates)

    def _sweeps(self, tokens: range) -> Iterator[Sweep]:
        wanted = (sweep for sweep in self.graph.sweeps() if self.ks in (None, sweep.ks))
        return (sweep for sweep in wanted if sweep.i in tokens)

    @cached_property
    def _alike(self) -> Alike | None:
        """The first two of them, where those up to the last are like them."""
        wanted = takewhile(lambda sweep: sweep.i <= self.last, self._sweeps(range(1, self.last + 1)))
        found = {sweep.i: sweep for sweep in wanted}
        patterns = {sweep.pattern for sweep in found.values()}
        if len(found) < self.last or len(patterns) > 1 or None in patterns:
            return None
        alike = Alike(self.graph.buffers, found[1], found[2])
        return alike if alike.holds else None


def _hides_something(few: Timeline, more: Timeline) -> bool:
    """Do more layers take a lane longer than they take the whole: is something else longer than the few?"""
    busy = max(seconds - few.lane_busy_s.get(lane, 0.0) for lane, seconds in more.lane_busy_s.items())
    return more.end_s - few.end_s < 0.99 * busy


def shows_at(few: int, one: Timeline, more: int, other: Timeline) -> float:
    """The number of layers from which on the hidden lane that gains most has more to do than all takes."""
    gains = {lane: seconds - one.lane_busy_s.get(lane, 0.0) for lane, seconds in other.lane_busy_s.items()}
    lane = max(gains, key=lambda name: gains[name])
    each = (gains[lane] - (other.end_s - one.end_s)) / (more - few)
    return few + (one.end_s - one.lane_busy_s.get(lane, 0.0)) / each


def stretched(few: Timeline, more: Timeline, times: float) -> Timeline:
    """``few``, and ``times`` what ``more`` adds to it."""
    ends = {i: end for i, end in few.sweep_end_s.items() if i in more.sweep_end_s}
    return Timeline(
        end_s=few.end_s + times * (more.end_s - few.end_s),
        sweep_end_s={i: end + times * (more.sweep_end_s[i] - end) for i, end in ends.items()},
        lane_busy_s=reached(few.lane_busy_s, {**few.lane_busy_s, **more.lane_busy_s}, times),
    )
