"""What a dual says a budget is worth, against solving again with 0.1 % more and 0.1 % less of it.

The time is convex in a budget, so the dual lies between what more brings and what less costs; where no limit is met
or left on the way, all three agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from flexplan_planners.lp import FlexplanCosts, Program, solve_program
from flexplan_planners.lp.duals import ShadowPrices, shadow_prices
from problems import SHAPES, problem

from flexplan.problem import Problem

STEP = 1e-3
WITHIN = 0.1
WORTH = 1e-4  # a part of the time for a part of the budget: less is nothing

PROBLEMS = [
    *(problem(gpu, cpu, disk, model=model) for model in SHAPES for gpu, cpu, disk in ((7, 16, 64), (9, 10, 64))),
    Problem.of("facebook/opt-30b", gpu_mem="16G", cpu_mem="200G"),
    Problem.of("facebook/opt-30b", gpu_mem="16G", cpu_mem="40G", disk_mem="200G", num_prompts=64),
]


@dataclass(frozen=True)
class Case:
    """A tier of a program: its dual, and the gain of more and the loss of less by solving again, per part."""

    name: str
    prices: ShadowPrices
    more: float
    less: float
    same_corner: bool
    price: float


def cases() -> Iterator[Case]:
    for asked in PROBLEMS:
        for size, n in ((1, 1), (8, 3)):
            for number, program in enumerate(FlexplanCosts(asked).programs(size)):
                yield from cases_of(program, n, f"{asked.model.name} {size}x{n} program {number}")


def cases_of(program: Program, n: int, name: str) -> Iterator[Case]:
    found = solve_program(program, n)
    if found is None:
        return
    here = shadow_prices(program, found, n)
    for tier, budget in program.budgets.items():
        if not budget:
            continue
        more, less = (with_budget(program, tier, budget * factor) for factor in (1 + STEP, 1 - STEP))
        above, below = solve_program(more, n), solve_program(less, n)
        if above is None or below is None:  # less does not fit
            continue
        whole = found.answer.objective
        yield Case(
            f"{name} {tier}",
            here,
            (whole - above.answer.objective) / whole / STEP,
            (below.answer.objective - whole) / whole / STEP,
            shadow_prices(more, above, n).corner == here.corner == shadow_prices(less, below, n).corner,
            here.gain[tier],
        )


def with_budget(program: Program, tier: str, nbytes: float) -> Program:
    return replace(program, budgets={**program.budgets, tier: nbytes})


@pytest.fixture(scope="module")
def found() -> list[Case]:
    return list(cases())


def test_a_dual_lies_between_what_more_brings_and_what_less_costs(found: list[Case]) -> None:
    for case in found:
        slack = WITHIN * max(case.less, WORTH)
        assert case.more - slack <= case.price <= case.less + slack, case


def test_away_from_a_corner_a_dual_is_within_a_tenth_of_a_re_solve(found: list[Case]) -> None:
    plain = [case for case in found if case.same_corner and not case.prices.degenerate]
    for case in plain:
        assert case.price == pytest.approx(case.more, rel=WITHIN, abs=WORTH), case
        assert case.price == pytest.approx(case.less, rel=WITHIN, abs=WORTH), case
    assert sum(case.price > WORTH for case in plain) > 30  # not only where memory is worth nothing


def test_where_more_and_less_differ_the_limits_that_are_met_are_named(found: list[Case]) -> None:
    kinks = [case for case in found if case.less - case.more > WITHIN * max(case.less, WORTH)]
    for case in kinks:
        assert case.prices.degenerate or not case.same_corner, case
    assert len(kinks) < len(found) / 4  # the rule, not the exception, is that they agree
