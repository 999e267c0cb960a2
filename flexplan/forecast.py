"""Forecast: the timeline of a plan, task by task, as the simulator sees it."""

from __future__ import annotations

from flexplan.cost import Rates
from flexplan.limits import wrong_type
from flexplan.plan import Plan
from flexplan.simulator import simulate_graph
from flexplan.timeline import Timeline


def simulate(plan: Plan, *, keep: bool = True) -> Timeline:
    """The predicted timeline of the plan's first block; with ``keep`` False only its sums.

    >>> from flexplan import Plan, Policy, Problem, simulate
    >>> plan = Plan.of(Problem.of("facebook/opt-125m", prompt_len=8, gen_len=2), Policy())
    >>> simulate(plan).busiest_lane()
    'gpu'
    """
    if not isinstance(plan, Plan):
        raise wrong_type("simulate", "a Plan", plan, "solve(Problem.of(...)) makes one")
    timeline = simulate_graph(plan.graph, Rates(plan.problem.hardware), keep=keep)
    timeline.peak_bytes = dict(plan.prediction.peak_bytes)
    return timeline
