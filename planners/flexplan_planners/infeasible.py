"""An infeasible problem, explained: which tiers are too small, and the smallest budget of each that would do."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from flexplan.errors import InfeasiblePlan
from flexplan.problem import Problem
from flexplan.units import MiB, format_size
from flexplan_planners.lpmodel import CostModel, solve_program

_PLENTY = 1 << 50  # a petabyte: what no tier can be short of

Model = Callable[[Problem], CostModel]


def infeasible(problem: Problem, model: Model) -> InfeasiblePlan:
    """The error for a problem that no program fits."""
    smallest = {tier: smallest_budget(problem, tier, model) for tier in problem.budgets()}
    binding = binding_tiers(problem, smallest, model)
    budgets = problem.budgets()
    have = ", ".join(f"{tier} {format_size(budgets[tier])}" for tier in binding)
    helps = [f"--{tier}-mem {need / MiB:.0f}Mi" for tier, need in smallest.items() if need is not None]
    return InfeasiblePlan(
        "FP403",
        f"no policy fits {problem.model.name} with prompt {problem.workload.prompt_len} and output "
        f"{problem.workload.gen_len}, not even one sequence at a time: too small is {have}",
        fix=f"give {' or '.join(helps)}" if helps else f"raise {' and '.join(f'--{tier}-mem' for tier in binding)}",
        binding=binding,
        smallest_budget_bytes=smallest,
    )


def fits(problem: Problem, model: Model) -> bool:
    """Is there a policy at all?  One sequence at a time needs least."""
    programs = model(problem).programs(1)
    return any(solve_program(program, 1) is not None for program in programs)


def smallest_budget(problem: Problem, tier: str, model: Model) -> int | None:
    """Whole MiB of one tier, the others as they are, that are enough while 1 MiB less is not; None if none is."""

    def enough(mib: int) -> bool:
        return fits(with_budget(problem, tier, mib * MiB), model)

    low, high = 0, _PLENTY // MiB
    if not enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return (0 if enough(0) else high) * MiB


def binding_tiers(problem: Problem, smallest: dict[str, int | None], model: Model) -> tuple[str, ...]:
    """Each tier that alone would help; else each without which the others cannot help, however large."""
    alone = tuple(tier for tier, need in smallest.items() if need is not None)
    if alone:
        return alone
    plenty = problem
    for tier in problem.budgets():
        plenty = with_budget(plenty, tier, _PLENTY)
    short = tuple(
        tier for tier, nbytes in problem.budgets().items() if not fits(with_budget(plenty, tier, nbytes), model)
    )
    return short or tuple(problem.budgets())


def with_budget(problem: Problem, tier: str, nbytes: int) -> Problem:
    """The same problem with another capacity of one tier."""
    return problem.model_copy(update={"hardware": problem.hardware.with_budget(**{tier: ceil(nbytes)})})
