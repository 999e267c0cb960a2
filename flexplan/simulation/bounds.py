"""Bounds: seconds that no order of a block's tasks can beat.

A phase takes at least as long as its busiest resource needs for all its work at full rate, and as long as its
busiest lane needs for its tasks one after the other::

    bound  =  sum over phases of  max over lanes and resources of  work / rate

What a plan takes beyond it, it spends waiting.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flexplan.cost import Rates
from flexplan.graph import Task, natural_lane
from flexplan.policy import Policy
from flexplan.problem import Problem, Workload
from flexplan.schedule import Schedule
from flexplan.units import round_up

_FEW, _MORE = 2, 2  # layers, and so many more, or what windows come again after


@dataclass(frozen=True, slots=True)
class Bound:
    """The least seconds of each phase of a block, and the lane or resource that needs them."""

    prefill_s: float
    decode_s: float
    prefill_limit: str
    decode_limit: str

    @property
    def total_s(self) -> float:
        return self.prefill_s + self.decode_s


def bound_of(problem: Problem, policy: Policy, schedule: Schedule, lens: tuple[int, ...]) -> Bound:
    """The bound of one block with these prompt lengths.

    All decoding passes together need at least what their middle one does, so many times: work is affine in the
    position, and the roofline of a task convex.  Where windows fill up meanwhile it is concave in the position: they
    need at least what the first one does.
    """
    decoded = problem.workload.gen_len - 1
    first = _busiest(_seconds(problem, policy, schedule, lens, 0))
    if not decoded:
        return Bound(first[1], 0.0, first[0], "")
    ahead = 0 if _fills_windows(problem, lens) else (decoded - 1) // 2
    middle = tuple(length + ahead for length in lens)
    later = _busiest(_seconds(problem, policy, schedule, middle, 1))
    return Bound(first[1], decoded * later[1], first[0], later[0])


def _fills_windows(problem: Problem, lens: tuple[int, ...]) -> bool:
    """Do rows of these lengths grow beyond a window?"""
    return any(length < w < length + problem.workload.gen_len for w in set(problem.model.windows) for length in lens)


def _busiest(seconds: Mapping[str, float]) -> tuple[str, float]:
    return max(seconds.items(), key=lambda item: item[1])


def _seconds(
    problem: Problem, policy: Policy, schedule: Schedule, lens: tuple[int, ...], i: int
) -> Mapping[str, float]:
    """What every lane and resource has to do for token i (0 or 1) of a block; layers are alike, so of few of them."""
    rates = Rates(problem.hardware)
    part = problem.model_copy(update={"workload": Workload(prompt_lens=lens, gen_len=i + 1)})

    def of_layers(num_layers: int) -> dict[str, float]:
        graph = schedule.build(part.with_layers(num_layers), policy)
        return busy_seconds((task for sweep in graph.sweeps() if sweep.i == i for task in sweep.tasks), rates)

    layers, more = problem.model.num_layers, _FEW + round_up(_MORE, problem.model.layer_period)
    if layers <= more:
        return of_layers(layers)
    return reached(of_layers(_FEW), of_layers(more), (layers - _FEW) / (more - _FEW))


def reached(few: Mapping[str, float], more: Mapping[str, float], times: float) -> dict[str, float]:
    """``few``, and ``times`` what ``more`` adds to it."""
    return {name: few.get(name, 0.0) + times * (seconds - few.get(name, 0.0)) for name, seconds in more.items()}


def busy_seconds(tasks: Iterable[Task], rates: Rates) -> dict[str, float]:
    """Seconds that these tasks take of every lane, one after the other, and of every resource at its full rate."""
    found: dict[str, float] = {}
    for task in tasks:
        price = rates.price(task.work, natural_lane(task))
        found[task.lane] = found.get(task.lane, 0.0) + price.solo_s
        for resource, seconds in price.demands:
            if resource != task.lane:
                found[resource] = found.get(resource, 0.0) + seconds
    return found
