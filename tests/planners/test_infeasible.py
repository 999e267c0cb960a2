"""What fits nowhere is refused with the smallest budgets that work, and they are the smallest."""

from __future__ import annotations

import pytest
from flexplan_planners.lp import LpPlanner
from flexplan_planners.search import SearchPlanner
from problems import SHAPES, problem

from flexplan.errors import InfeasiblePlan
from flexplan.problem import Problem
from flexplan.units import MiB


def refusal(asked: Problem) -> InfeasiblePlan | None:
    try:
        SearchPlanner().plan(asked)
    except InfeasiblePlan as error:
        return error
    return None


def with_budget(asked: Problem, tier: str, nbytes: int) -> Problem:
    return asked.model_copy(update={"hardware": asked.hardware.with_budget(**{tier: nbytes})})


@pytest.mark.parametrize("model", SHAPES, ids=lambda m: m.name)
@pytest.mark.parametrize("budgets", [(1, 64, 0), (5, 6, 1)])
def test_the_smallest_budget_works_and_1_mib_less_does_not(model: object, budgets: tuple[int, int, int]) -> None:
    asked = problem(*budgets, model=model, num_prompts=4)  # type: ignore[arg-type]
    error = refusal(asked)
    assert error is not None
    assert error.code == "FP403"
    assert error.binding == tuple(t for t, need in error.smallest_budget_bytes.items() if need is not None)
    for tier, nbytes in error.smallest_budget_bytes.items():
        if nbytes is not None:
            assert refusal(with_budget(asked, tier, nbytes)) is None
            assert refusal(with_budget(asked, tier, nbytes - MiB)) is not None


def test_where_two_tiers_are_too_small_no_budget_of_one_helps() -> None:
    error = refusal(problem(1, 0.1, num_prompts=4))
    assert error is not None
    assert error.smallest_budget_bytes["disk"] is None
    assert set(error.binding) & {"gpu", "cpu"}


def test_the_message_says_what_is_too_small_and_what_would_do() -> None:
    error = refusal(problem(1, 64, num_prompts=4))
    assert error is not None
    assert "too small is gpu 1.00 MiB" in error.message
    assert error.fix.startswith("give --gpu-mem ")


def test_both_planners_refuse_alike() -> None:
    with pytest.raises(InfeasiblePlan) as caught:
        LpPlanner().plan(problem(1, 64, num_prompts=4))
    other = refusal(problem(1, 64, num_prompts=4))
    assert other is not None
    assert caught.value.smallest_budget_bytes == other.smallest_budget_bytes
