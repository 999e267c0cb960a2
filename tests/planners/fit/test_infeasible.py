"""What fits nowhere is refused with the smallest budgets that work, and they are the smallest."""

from __future__ import annotations

from dataclasses import replace

import pytest
from flexplan_planners.lp_planner import LpPlanner
from flexplan_planners.search_planner import SearchPlanner
from problems import SHAPES, problem

from flexplan.errors import InfeasiblePlan
from flexplan.plan import Plan
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.testing import policy_with
from flexplan.units import MiB


def refusal(asked: Problem) -> InfeasiblePlan | None:
    try:
        SearchPlanner().plan(asked)
    except InfeasiblePlan as error:
        return error
    return None


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
            assert refusal(asked.with_budgets(**{tier: nbytes})) is None
            assert refusal(asked.with_budgets(**{tier: nbytes - MiB})) is not None


def test_where_two_tiers_are_too_small_no_budget_of_one_helps() -> None:
    error = refusal(problem(1, 0.1, num_prompts=4))
    assert error is not None
    assert error.smallest_budget_bytes["disk"] is None
    assert set(error.binding) & {"gpu", "cpu"}


def test_two_tiers_that_are_too_small_get_budgets_that_work_together_and_1_mib_less_of_either_does_not() -> None:
    asked = problem(1, 0.1, num_prompts=4)
    error = refusal(asked)
    assert error is not None
    assert list(error.smallest_budget_bytes.values()) == [None] * 3
    together = error.smallest_together_bytes
    assert set(together) == set(error.binding) == {"gpu", "cpu"}
    assert "--gpu-mem" in error.fix and " and --cpu-mem" in error.fix
    enough = asked.with_budgets(**together)
    assert refusal(enough) is None
    for tier in together:
        assert refusal(enough.with_budgets(**{tier: together[tier] - MiB})) is not None


def test_a_policy_that_does_not_fit_is_told_a_block_that_does() -> None:
    asked = problem(8, 64, num_prompts=None)
    policy = policy_with(16, 4, w=(0, 100), cache=(0, 100), act=(0, 100))
    with pytest.raises(InfeasiblePlan) as caught:
        Plan.of(asked, policy)
    block = caught.value.block_that_works
    assert block is not None
    assert f"gpu_batch_size {block[0]} and num_gpu_batches {block[1]}" in caught.value.fix
    size, batches = block
    assert Plan.of(asked, replace(policy, gpu_batch_size=size, num_gpu_batches=batches)).policy.block_size > 0
    with pytest.raises(InfeasiblePlan):
        Plan.of(asked, replace(policy, gpu_batch_size=size + 1, num_gpu_batches=batches))


def test_where_no_block_of_a_policy_fits_none_is_named() -> None:
    with pytest.raises(InfeasiblePlan) as caught:
        Plan.of(problem(4, 64), Policy(2, 2))
    assert caught.value.block_that_works is None
    assert "w_gpu_percent" in caught.value.fix


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
