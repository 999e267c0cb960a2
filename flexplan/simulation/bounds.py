"""Bounds: seconds that no order of a block's tasks can beat.

A phase takes at least as long as its busiest resource needs for all its work at full rate, and as long as its
busiest lane needs for its tasks one after the other::

    bound  =  sum over phases of  max over lanes and resources of  work / rate

What a plan takes beyond it, it spends waiting.  Where phases meet, some work may run on either side, as weights do that
are fetched ahead (`stretches`): it counts for neither, or the sum would be no bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flexplan.cost import Rates
from flexplan.graph import Task, natural_lane
from flexplan.policy import Policy
from flexplan.problem import Problem, Workload
from flexplan.schedule import Schedule
from flexplan.simulation.stretches import Stretch, stretches
from flexplan.units import round_up

_STEPS = 1500  # layers x micro-batches of a pass up to which all are counted; of more, some layers
_FEW, _MORE = 2, 2  # layers that stand for all in a comparison, and so many more
_PASSES = 4  # of a block: the prompts, the first decoding, one like all others, the last


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
    half = max(_FEW, _STEPS // policy.num_gpu_batches // 2)
    return _bound(problem, policy, schedule, lens, (half, half))


def rough_bound_of(problem: Problem, policy: Policy, schedule: Schedule, lens: tuple[int, ...]) -> Bound:
    """The same to compare many blocks by, quickly: of a few layers, as if all weights were cut alike."""
    return _bound(problem, policy, schedule, lens, (_FEW, _MORE))


def _fills_windows(problem: Problem, lens: tuple[int, ...]) -> bool:
    """Do rows of these lengths grow beyond a window?"""
    return any(length < w < length + problem.workload.gen_len for w in set(problem.model.windows) for length in lens)


def _bound(
    problem: Problem, policy: Policy, schedule: Schedule, lens: tuple[int, ...], counts: tuple[int, int]
) -> Bound:
    """Of all layers where those are few; else by so many of them, and so many more or what windows come again after."""
    tokens = problem.workload.gen_len
    ahead = 0 if _fills_windows(problem, lens) else max(0, tokens - _PASSES) // 2
    middle = tuple(length + ahead for length in lens)
    prefill = _busy(problem, policy, schedule, lens, counts, decodes=False)
    decode = _busy(problem, policy, schedule, middle, counts, decodes=True) if tokens > 1 else []
    return Bound(_least_s(prefill), _least_s(decode), _limit(prefill), _limit(decode))


def _busy(
    problem: Problem,
    policy: Policy,
    schedule: Schedule,
    lens: tuple[int, ...],
    counts: tuple[int, int],
    *,
    decodes: bool,
) -> list[Mapping[str, float]]:
    """What every lane and resource has to do in each stretch of the phase."""
    layers, tokens = problem.model.num_layers, problem.workload.gen_len
    workload = Workload(prompt_lens=lens, gen_len=min(tokens, _PASSES if decodes else 2))
    part, rates = problem.model_copy(update={"workload": workload}), Rates(problem.hardware)
    alike = tokens - (_PASSES - 1)  # passes that the last but one stands for

    def busy(stretch: Stretch) -> dict[str, float]:
        found: dict[str, float] = {}
        for i, tasks in stretch.tasks.items():
            times = alike if i == _PASSES - 2 and alike > 1 else 1
            for name, seconds in busy_seconds(tasks, rates).items():
                found[name] = found.get(name, 0.0) + times * seconds
        return found

    def of_layers(num_layers: int) -> list[dict[str, float]]:
        graph = schedule.build(part.with_layers(num_layers), policy)
        return [busy(stretch) for stretch in stretches(graph) if stretch.decodes == decodes]

    few, more = counts[0], counts[0] + round_up(counts[1], problem.model.layer_period)
    if layers <= more:
        return list(of_layers(layers))
    times = (layers - few) / (more - few)
    return [reached(one, other, times) for one, other in zip(of_layers(few), of_layers(more), strict=True)]


def _least_s(stretches: list[Mapping[str, float]]) -> float:
    return sum(max(busy.values(), default=0.0) for busy in stretches)


def _limit(stretches: list[Mapping[str, float]]) -> str:
    whole: dict[str, float] = {}
    for busy in stretches:
        for name, seconds in busy.items():
            whole[name] = whole.get(name, 0.0) + seconds
    return max(whole, key=lambda name: whole[name], default="")


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
