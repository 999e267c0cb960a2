"""Throughput under a bound of latency: the program's bound is tightened until the simulated block keeps the asked one.

The program leaves out waiting, so its block may be quicker than the simulated one.
"""

from __future__ import annotations

from collections.abc import Callable

from flexplan.errors import InfeasiblePlan
from flexplan.plan import Plan, meets_latency
from flexplan.problem import Objective, Problem

Solve = Callable[[Problem], Plan]  # raises InfeasiblePlan

_ROUNDS = 6
_CLOSE = 0.97  # of the bound: near enough to it
_MARGIN = 0.005


def within_latency(solve: Solve, problem: Problem) -> Plan:
    """The fastest plan found whose block takes no longer than the objective allows; InfeasiblePlan says what would do.

    The bound given to ``solve`` is scaled by what the last block took, while that helps; a block of one sequence is
    the last resort, as no block is quicker.
    """
    most = problem.objective.max_latency_s
    if most is None:
        return solve(problem)
    best: Plan | None = None
    asked, margin = most, _MARGIN
    for _ in range(_ROUNDS):
        found = _tried(solve, problem, asked)
        if found is None:
            break
        if meets_latency(found) and (best is None or _speed(found) > _speed(best)):
            best = found
        elif meets_latency(found):
            break
        if meets_latency(found) and (asked >= most or found.prediction.block_s >= _CLOSE * most):
            break
        asked = min(most, asked * (1 - margin) * most / found.prediction.block_s)
        margin = _MARGIN if meets_latency(found) else 2 * margin  # a step too small meets the same block again
    return best or _quickest(solve, problem)


def _tried(solve: Solve, problem: Problem, most: float) -> Plan | None:
    """The answer under another bound, as one to the problem; None where nothing keeps it."""
    try:
        return solve(_bounded(problem, most)).under(problem)
    except InfeasiblePlan:
        return None


def _quickest(solve: Solve, problem: Problem) -> Plan:
    """One sequence a block, or the refusal that names how long that takes."""
    alone = problem.workload.model_copy(update={"prompt_lens": (), "num_prompts": 1})
    one = solve(_bounded(problem.model_copy(update={"workload": alone}), None))
    found = Plan.of(problem, one.policy, schedule=one.schedule, planner=one.planner)
    if meets_latency(found):
        return found
    took, most = found.prediction.block_s, problem.objective.max_latency_s
    raise InfeasiblePlan(
        "FP405",
        f"a block of one sequence takes {took:.4g} s within these budgets, --max-latency allows {most:g}",
        fix=f"give --max-latency {took * 1.0005:.4g}, or raise --gpu-mem or --cpu-mem",
        binding=("latency",),
    )


def _bounded(problem: Problem, most: float | None) -> Problem:
    # a share of what was asked for may be less than anyone may ask for
    return problem.model_copy(update={"objective": Objective().model_copy(update={"max_latency_s": most})})


def _speed(plan: Plan) -> float:
    return plan.prediction.tokens_per_s
