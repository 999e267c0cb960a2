"""Planning: the Planner protocol, and ``solve``, which trusts no planner."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol

from flexplan.errors import UsageError
from flexplan.graph import TaskGraph, check_accesses, check_budgets, check_order
from flexplan.limits import wrong_type
from flexplan.placement import Layout, Placement, fewer_layers
from flexplan.plan.baselines import faster_baseline
from flexplan.plan.long_prompts import warn_of_long_prompts
from flexplan.plan.objectives import refuse_late, smallest_memory
from flexplan.plan.pause import collector_paused
from flexplan.plan.plan import Plan
from flexplan.plan.thirdparty import blamed_on, is_thirdparty, name_of, thirdparty_plan
from flexplan.plugins import PLANNERS, make
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.sandbox import TIMEOUT_S, ThirdParty, blame_of, schedule_of
from flexplan.schedule import Schedule, first_block, placement_of, rolls

__all__ = ["Planner", "Schedule", "check_plan", "solve"]

PLANNER_TIMEOUT_S = TIMEOUT_S
_MOST_TIMEOUT_S = 1e7  # four months

_CHECKED_TOKENS = 3  # the prompt, a first and a last token: what lies between repeats
_CHECKED_LAYERS = 3  # more than a ring of weights has slots, with the embedding and the head
_CHECKED_PASSES = 32  # of a rolling job
_PROVED_SWEEPS = 2  # of a whole model: a prompt and a token, a tenth of a second each


Ask = Callable[[Problem], Plan]


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

    ``options`` go to the planner's constructor, for instance ``schedule="rowwise"``.  Where a baseline is predicted
    to be faster it is the answer, unless the planner is ``manual`` or an instance, or the schedule is given.  A
    planner or schedule of another package has ``timeout_s`` seconds (an instance that holds the interpreter has no
    limit: give its name), and nothing of such a planner's plan but the policy and the schedule is believed.
    """
    _refuse_wrong(problem, planner, timeout_s)
    thirdparty = is_thirdparty(planner)
    ask = _asked_thirdparty(planner, options, timeout_s) if thirdparty else _asked(planner, options)
    if isinstance(options.get("schedule"), str) and not thirdparty:
        ask = _bounded(ask, options["schedule"], timeout_s)
    if problem.objective.min_tokens_per_s is not None:
        return smallest_memory(ask, problem)
    plan = ask(problem)
    ours = isinstance(planner, str) and planner != "manual" and not thirdparty
    if ours:
        warn_of_long_prompts(ask, plan)
    return _or_baseline(plan) if ours and "schedule" not in options else plan


def _refuse_wrong(problem: object, planner: object, timeout_s: float) -> None:
    """Raise TypeError for what is neither a problem nor a planner, UsageError for no time at all or too much."""
    if not isinstance(problem, Problem):
        raise wrong_type("solve", "a Problem", problem, "solve(Problem.of(model, gpu_mem=..., cpu_mem=...))")
    if isinstance(planner, type) or not (isinstance(planner, str) or hasattr(planner, "plan")):
        raise wrong_type(
            "solve", "a planner's name or an instance", planner, "an instance has the method plan(problem)"
        )
    if not 0 < timeout_s <= _MOST_TIMEOUT_S:
        message = f"a planner's time {timeout_s} s, allowed above 0 and up to {_MOST_TIMEOUT_S:.0f}"
        raise UsageError("FP119", message, fix="correct --planner-timeout")


def _asked(planner: str | Planner, options: Mapping[str, Any]) -> Ask:
    """What a built-in planner answers, once the checker has seen it."""
    chosen: Planner = make(PLANNERS, planner, **options) if isinstance(planner, str) else planner

    def ask(problem: Problem) -> Plan:
        with collector_paused():
            plan = chosen.plan(problem)
            check_plan(plan)
        refuse_late(plan)
        return plan

    return ask


def _asked_thirdparty(planner: str | Planner, options: Mapping[str, Any], timeout_s: float) -> Ask:
    """The same of a planner of another package; what is wrong with its answer is said with its name."""

    def ask(problem: Problem) -> Plan:
        plan = thirdparty_plan(problem, planner, dict(options), timeout_s)
        with blamed_on(name_of(planner)):
            check_plan(plan)
        refuse_late(plan)
        return plan

    return ask


def _bounded(ask: Ask, schedule: str, timeout_s: float) -> Ask:
    """The same with a schedule that has so long, and is to blame for its graphs, where it is of another package."""

    def bounded(problem: Problem) -> Plan:
        with blame_of(schedule, timeout_s):
            return ask(problem)

    return bounded


def _or_baseline(plan: Plan) -> Plan:
    """The plan, or that of a baseline that is predicted to be faster; then a warning says so."""
    found = faster_baseline(plan)
    if found is None or found.plan is None:
        return plan
    percent = 100 * (found.plan.prediction.tokens_per_s / plan.prediction.tokens_per_s - 1)
    message = f"the baseline {found.name} is predicted to be {percent:.1f} % faster than the plan of planner"
    warnings.warn(f"{message} {plan.planner}: it is the answer", stacklevel=3)
    return replace(found.plan, planner=plan.planner)


def check_plan(plan: Plan) -> None:
    """Hold a plan's first block against the budgets, and prove its schedule's accesses and their order on few layers.

    Layers are alike; what differs between passes shows in three to five of them.  A schedule of another package also
    has to compute the right values, on few layers to the end and on all of them in the first passes; a runtime goes on
    with that pass by pass.  Raises InfeasiblePlan or GraphError, and PluginError where the schedule is of another
    package.
    """
    if not isinstance(plan, Plan):
        raise wrong_type("check_plan", "a Plan", plan, "solve(problem) makes one")
    schedule = schedule_of(plan.schedule)
    with blame_of(schedule):
        _prove(plan, schedule)


def _prove(plan: Plan, schedule: Schedule) -> None:
    problem, graph = plan.problem, schedule.build(plan.problem, plan.policy)
    placement = _placement_of(graph, schedule, problem, plan.policy)
    check_budgets(graph, problem.budgets(), {"gpu": Layout.of(placement).arena_bytes["gpu.workspace"]})
    if rolls(schedule):
        _prove_rolling(problem, plan.policy, schedule)
        return
    few = fewer_layers(problem.model.num_layers, plan.policy, _CHECKED_LAYERS)
    shallow = problem.with_layers(few)
    check_accesses(schedule.build(shallow, plan.policy))
    short = shallow.with_most_tokens(_CHECKED_TOKENS)
    graph_of_short = schedule.build(short, plan.policy)
    check_order(graph_of_short.buffers, graph_of_short.nodes())
    if isinstance(schedule, ThirdParty):
        from flexplan.proof import prove  # a tenth of what `import flexplan` would take, for what few have

        prove(graph_of_short, _placement_of(graph_of_short, schedule, short, plan.policy))
        prove(graph, placement, most_sweeps=_PROVED_SWEEPS)


def _prove_rolling(problem: Problem, policy: Policy, schedule: Schedule) -> None:
    """The first passes of the job on few layers: its seats fill, and some of those who sit leave them again."""
    from flexplan.proof import SeatingLaws  # as above

    shallow = problem.with_layers(fewer_layers(problem.model.num_layers, policy, _CHECKED_LAYERS))
    graph = schedule.build(shallow, policy)
    sweeps = list(islice(graph.sweeps(), _CHECKED_PASSES))
    first = TaskGraph.of(graph.schedule, graph.live, graph.buffers, sweeps)
    check_accesses(first)
    check_order(first.buffers, first.nodes())
    laws = SeatingLaws(_placement_of(graph, schedule, shallow, policy))
    for sweep in sweeps:
        laws.take(sweep)


def _placement_of(graph: TaskGraph, schedule: Schedule, problem: Problem, policy: Policy) -> Placement:
    return placement_of(graph, problem.model, policy, first_block(schedule, problem.workload, policy))
