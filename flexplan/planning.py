"""Planning: the Planner protocol, and ``solve``, which trusts no planner."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, Protocol

from flexplan.baselines import faster_baseline
from flexplan.blocks import fill_blocks
from flexplan.checker import check_accesses, check_budgets, check_order
from flexplan.errors import FlexplanError, PluginError
from flexplan.goals import refuse_late, smallest_memory
from flexplan.placement import Placement
from flexplan.plan import Plan
from flexplan.plugins import PLANNERS, SCHEDULES, make
from flexplan.prediction import Schedule
from flexplan.problem import Problem

__all__ = ["Planner", "Schedule", "check_plan", "solve"]

_CHECKED_TOKENS = 3  # the prompt, a first and a last token: what lies between repeats
_CHECKED_LAYERS = 3  # more than a ring of weights has slots, with the embedding and the head


class Planner(Protocol):
    """Answers a problem with a plan, or raises InfeasiblePlan with numbers.

    ``plan`` may be called often; it must not change the problem, and equal problems get equal plans.
    """

    def plan(self, problem: Problem) -> Plan: ...


def solve(problem: Problem, planner: str | Planner = "search", **options: Any) -> Plan:
    """The plan of a planner (a name or an instance), accepted by the independent checker.

    ``options`` go to the planner's constructor, for instance ``schedule="rowwise"``.  Where a baseline is predicted
    to be faster it is the answer, unless the planner is ``manual`` or an instance, or the schedule is given.
    """
    name = planner if isinstance(planner, str) else type(planner).__name__
    chosen: Planner = make(PLANNERS, planner, **options) if isinstance(planner, str) else planner
    if problem.objective.min_tokens_per_s is not None:
        return smallest_memory(lambda asked: _accepted(chosen, name, asked), problem)
    plan = _accepted(chosen, name, problem)
    if isinstance(planner, str) and planner != "manual" and "schedule" not in options:
        return _or_baseline(plan)
    return plan


def _or_baseline(plan: Plan) -> Plan:
    """The plan, or that of a baseline that is predicted to be faster; then a warning says so."""
    found = faster_baseline(plan)
    if found is None or found.plan is None:
        return plan
    percent = 100 * (found.plan.prediction.tokens_per_s / plan.prediction.tokens_per_s - 1)
    message = f"the baseline {found.name} is predicted to be {percent:.1f} % faster than the plan of planner"
    warnings.warn(f"{message} {plan.planner}: it is the answer", stacklevel=3)
    return replace(found.plan, planner=plan.planner)


def _accepted(chosen: Planner, name: str, problem: Problem) -> Plan:
    """One answer of a planner: a plan that passes the checker and keeps the bound of latency."""
    try:
        plan = chosen.plan(problem)
    except FlexplanError:
        raise
    except Exception as error:  # a stranger's planner may raise anything
        raise PluginError("FP903", f"planner {name} failed: {error!r}", fix="report it to its author") from error
    if not isinstance(plan, Plan):
        raise PluginError("FP904", f"planner {name} returned {type(plan).__name__}, must be a Plan", fix="use Plan.of")
    check_plan(plan)
    refuse_late(plan)
    return plan


def check_plan(plan: Plan) -> None:
    """Hold a plan's first block against the budgets, and prove its schedule's accesses and their order on few layers.

    Layers are alike; what differs between passes shows in three of them.  Raises InfeasiblePlan or GraphError.
    """
    problem, graph = plan.problem, plan.graph
    block = next(fill_blocks(problem.workload, plan.policy))
    placement = Placement.of(problem.model, plan.policy, block, graph.live)
    check_budgets(graph, problem.budgets(), {"gpu": placement.arena_bytes["gpu.workspace"]})
    schedule: Schedule = make(SCHEDULES, plan.schedule)
    model = problem.model.model_copy(update={"num_layers": min(problem.model.num_layers, _CHECKED_LAYERS)})
    shallow = problem.model_copy(update={"model": model})
    check_accesses(schedule.build(shallow, plan.policy))
    workload = problem.workload.model_copy(update={"gen_len": min(problem.workload.gen_len, _CHECKED_TOKENS)})
    short = schedule.build(shallow.model_copy(update={"workload": workload}), plan.policy)
    check_order(short.buffers, short.steps())
