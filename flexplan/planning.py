"""Planning: the Planner protocol, and ``solve``, which trusts no planner."""

from __future__ import annotations

from typing import Any, Protocol

from flexplan.blocks import fill_blocks
from flexplan.checker import check_accesses, check_budgets, check_order
from flexplan.foreign import blamed_on, foreign_plan, is_foreign, name_of
from flexplan.placement import Placement
from flexplan.plan import Plan
from flexplan.plugins import PLANNERS, SCHEDULES, make
from flexplan.prediction import Schedule
from flexplan.problem import Problem

__all__ = ["Planner", "Schedule", "check_plan", "solve"]

PLANNER_TIMEOUT_S = 60.0

_CHECKED_TOKENS = 3  # the prompt, a first and a last token: what lies between repeats
_CHECKED_LAYERS = 3  # more than a ring of weights has slots, with the embedding and the head


class Planner(Protocol):
    """Answers a problem with a plan, or raises InfeasiblePlan with numbers.

    ``plan`` may be called often; it must not change the problem, and equal problems get equal plans.
    """

    def plan(self, problem: Problem) -> Plan: ...


def solve(
    problem: Problem,
    planner: str | Planner = "search",
    *,
    timeout_s: float = PLANNER_TIMEOUT_S,
    **options: Any,
) -> Plan:
    """The plan of a planner (a name or an instance), accepted by the independent checker.

    ``options`` go to the planner's constructor, for instance ``schedule="rowwise"``.  A planner of another
    package has ``timeout_s`` seconds, and nothing of its plan but the policy and the schedule is believed.
    """
    if is_foreign(planner):
        plan = foreign_plan(problem, planner, options, timeout_s)
        with blamed_on(name_of(planner)):
            check_plan(plan)
        return plan
    chosen: Planner = make(PLANNERS, planner, **options) if isinstance(planner, str) else planner
    plan = chosen.plan(problem)
    check_plan(plan)
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
