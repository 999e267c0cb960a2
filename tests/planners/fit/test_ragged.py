"""Planning for a file of prompts: their own lengths, not the longest of them."""

from __future__ import annotations

import random

import pytest
from flexplan_planners.lp_planner import LpPlanner
from flexplan_planners.schedules.zigzag import ZigZag
from flexplan_planners.search_planner import SearchPlanner
from problems import SHAPES, problem

from flexplan.errors import InfeasiblePlan
from flexplan.plan import Planner
from flexplan.plan.planner import check_plan
from flexplan.problem import Problem, Workload
from flexplan.simulation import peak_bytes
from flexplan.units import MiB


def ragged(asked: Problem, mean: int = 20, seed: int = 0) -> Problem:
    """Most prompts short, a few long."""
    dice = random.Random(seed)
    lens = tuple(min(8 * mean, 4 + int(dice.expovariate(1 / mean))) for _ in range(96))
    return asked.model_copy(update={"workload": Workload(prompt_lens=lens, gen_len=8)})


def padded(asked: Problem) -> Problem:
    """As if all prompts were as long as the longest."""
    work = asked.workload
    same = Workload(prompt_lens=(work.prompt_len,) * len(work.prompt_lens), gen_len=work.gen_len)
    return asked.model_copy(update={"workload": same})


@pytest.mark.parametrize("planner", [LpPlanner(), SearchPlanner()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("model", SHAPES, ids=lambda m: m.name)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_block_fits(planner: Planner, model: object, seed: int) -> None:
    asked = ragged(problem(16, 28, 64, model=model), seed=seed)  # type: ignore[arg-type]
    plan = planner.plan(asked)
    check_plan(plan)
    need, budgets = plan.prediction.peak_bytes, asked.budgets()
    assert need == peak_bytes(asked, plan.policy, ZigZag())
    assert all(need[tier] <= budgets[tier] for tier in budgets)


def test_short_prompts_run_in_larger_blocks_than_the_longest_would() -> None:
    asked = ragged(Problem.of("facebook/opt-6.7b", hardware="t4-gcp", gpu_mem="6G", cpu_mem="24G"), mean=100)
    own, longest = (SearchPlanner().plan(p) for p in (asked, padded(asked)))
    assert own.policy.block_size > longest.policy.block_size
    assert own.prediction.tokens_per_s > 1.2 * longest.prediction.tokens_per_s


def test_the_smallest_budget_is_that_of_the_longest_prompt() -> None:
    asked = ragged(problem(1, 64))
    with pytest.raises(InfeasiblePlan) as caught:
        SearchPlanner().plan(asked)
    need = caught.value.smallest_budget_bytes["gpu"]
    assert need is not None
    assert SearchPlanner().plan(asked.with_budgets(gpu=need)).policy.block_size > 0
    with pytest.raises(InfeasiblePlan):
        SearchPlanner().plan(asked.with_budgets(gpu=need - MiB))
