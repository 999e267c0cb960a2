"""An infeasible problem, explained: which tiers are too small, and the smallest budget of each that would do.

One sequence at a time needs least of every tier, so the program of one sequence decides: the smallest
budget of a tier is the minimum of its bytes, the other tiers within theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf

from flexplan.errors import InfeasiblePlan
from flexplan.problem import Objective, Problem
from flexplan.units import MiB, format_size, round_up
from flexplan_planners.lp import (
    INVERSE,
    ONE,
    Constraint,
    Program,
    memory_rows,
    minimise,
    present,
    share_rows,
    solve_program,
)

_PLENTY = 1 << 50  # a petabyte: what no tier can be short of

Budgets = Mapping[str, int]
Works = Callable[[Problem], bool]


def infeasible(problem: Problem, programs: Sequence[Program], works: Works) -> InfeasiblePlan:
    """The error for a problem that none of the programs of one sequence fits.

    ``works`` says whether the placement fits one all the same.
    """
    budgets = problem.budgets()
    smallest = {tier: smallest_budget(problem, programs, tier, works) for tier in budgets}
    binding = binding_tiers(programs, budgets, smallest)
    together = {} if any(smallest.values()) else smallest_together(problem, programs, binding, works)
    have = ", ".join(f"{tier} {format_size(getattr(problem.hardware, f'{tier}_bytes'))}" for tier in binding)
    helps = " or ".join(_flags(smallest)) or " and ".join(_flags(together))
    return InfeasiblePlan(
        "FP403",
        f"no policy fits {problem.model.name} with prompt {problem.workload.prompt_len} and output "
        f"{problem.workload.gen_len}, not even one sequence at a time: too small is {have}",
        fix=f"give {helps}: then a block of one sequence works" if helps else "no budgets of these tiers are enough",
        binding=binding,
        smallest_budget_bytes=smallest,
        smallest_together_bytes=together,
        block_that_works=(1, 1),
    )


def _flags(budgets: Mapping[str, int | None]) -> list[str]:
    return [f"--{tier}-mem {need // MiB}Mi" for tier, need in budgets.items() if need is not None]


def smallest_together(
    problem: Problem, programs: Sequence[Program], tiers: Sequence[str], works: Works
) -> dict[str, int]:
    """Budgets of several tiers that are enough together: each the smallest, given those before it and plenty after."""
    found: dict[str, int] = {}
    for tier in tiers:
        after = dict.fromkeys(tiers, _PLENTY)
        need = smallest_budget(problem.with_budgets(**{**after, **found}), programs, tier, works)
        if need is None:
            return {}
        found[tier] = need
    return found


def smallest_budget(problem: Problem, programs: Sequence[Program], tier: str, works: Works) -> int | None:
    """Whole MiB of one tier, the others as they are, that are enough while 1 MiB less is not; None if none is."""
    budgets = problem.budgets()
    least = min((least_bytes(program, budgets, tier) for program in programs), default=inf)
    if least > _PLENTY:
        return None
    need = round_up(problem.budget_for(tier, int(least)), MiB)
    need = need if any_fits(programs, {**budgets, tier: problem.room(tier, need)}) else need + MiB
    return lowered(need, lambda smaller: works(problem.with_budgets(**{tier: smaller})))


def lowered(need: int, works: Callable[[int], bool]) -> int:
    """The smallest budget that works, in MiB below one that does: rows of memory count a little too much.

    >>> lowered(40 * MiB, lambda nbytes: nbytes >= 29 * MiB) // MiB
    29
    """
    step = MiB
    while need > step and works(need - step):
        need, step = need - step, 2 * step
    low = max(0, need - step)  # too little
    while need - low > MiB:
        middle = low + (need - low) // (2 * MiB) * MiB
        need, low = (middle, low) if works(middle) else (need, middle)
    return need


def least_bytes(program: Program, budgets: Budgets, tier: str) -> float:
    """The least that one sequence needs of a tier while the others keep their budgets."""
    limited = replace(program, budgets={name: float(nbytes) for name, nbytes in budgets.items()})
    terms = program.bytes[tier].per_batch(1)
    objective = {name: terms.get(name, 0.0) / MiB for name in present(program)}
    others = [row for row in memory_rows(limited, 1) if row.name != f"bytes_{tier}"]
    answer = minimise(objective, [*others, *share_rows(limited), Constraint("batches", {INVERSE: 1.0}, "==", 1.0)])
    return answer.objective * MiB + terms.get(ONE, 0.0) + terms.get(INVERSE, 0.0) if answer.optimal else inf


def any_fits(programs: Sequence[Program], budgets: Budgets) -> bool:
    """Is there a policy at all?"""
    given = {tier: float(nbytes) for tier, nbytes in budgets.items()}
    return any(solve_program(replace(program, budgets=given), 1) is not None for program in programs)


def binding_tiers(programs: Sequence[Program], budgets: Budgets, smallest: Mapping[str, int | None]) -> tuple[str, ...]:
    """Each tier that would help alone; else each without which the others cannot help, however large."""
    alone = tuple(tier for tier, need in smallest.items() if need is not None)
    plenty = dict.fromkeys(budgets, _PLENTY)
    short = tuple(tier for tier in budgets if not any_fits(programs, {**plenty, tier: budgets[tier]}))
    return alone or short or tuple(budgets)


def with_plenty(problem: Problem) -> Problem:
    """The same problem with budgets that nothing is over, and nothing too late."""
    plenty = problem.with_budgets(**dict.fromkeys(problem.budgets(), _PLENTY))
    return plenty.model_copy(update={"objective": Objective()})
