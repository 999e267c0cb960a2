"""Objectives other than throughput: a bound of latency, and the smallest memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from flexplan_planners.fit import Optimum, optimise
from flexplan_planners.fit.branch_and_bound import Front
from flexplan_planners.lp import Program
from flexplan_planners.lp_planner import LpPlanner
from flexplan_planners.search_planner import SearchPlanner
from problems import SHAPES, problem

from flexplan.errors import InfeasiblePlan
from flexplan.plan import Plan, Planner, solve
from flexplan.problem import Objective, Problem
from flexplan.testing import policy_with
from flexplan.units import MiB

PLANNERS = [LpPlanner(), SearchPlanner()]
each_planner = pytest.mark.parametrize("planner", PLANNERS, ids=lambda p: type(p).__name__)


def aiming(asked: Problem, **bounds: float) -> Problem:
    return asked.model_copy(update={"objective": Objective(**bounds)})


def one_sequence_s(asked: Problem, planner: Planner) -> float:
    """Seconds of the smallest block."""
    alone = asked.workload.model_copy(update={"num_prompts": 1})
    return solve(asked.model_copy(update={"workload": alone}), planner).prediction.block_s


# -- latency -----------------------------------------------------------------------------------------------------
@each_planner
@pytest.mark.parametrize("model", SHAPES, ids=lambda m: m.name)
@pytest.mark.parametrize("part", [0.3, 0.7])
def test_a_block_keeps_its_bound_of_latency(planner: Planner, model: object, part: float) -> None:
    asked = problem(14, 64, model=model, num_prompts=None)  # type: ignore[arg-type]
    free, least = solve(asked, planner), one_sequence_s(asked, planner)
    bound = least + part * (free.prediction.block_s - least)
    plan = solve(aiming(asked, max_latency_s=bound), planner)
    assert plan.prediction.block_s <= bound
    if isinstance(planner, SearchPlanner):  # the program alone may take a slower block for a faster one
        assert plan.prediction.tokens_per_s <= free.prediction.tokens_per_s * 1.03
    assert plan.problem.objective.max_latency_s == bound


@each_planner
def test_a_longer_latency_is_never_slower(planner: Planner) -> None:
    asked = problem(9, 64, num_prompts=None)
    least, longest = one_sequence_s(asked, planner), solve(asked, planner).prediction.block_s
    speeds = [
        solve(aiming(asked, max_latency_s=least + part * (longest - least)), planner).prediction.tokens_per_s
        for part in (0.3, 0.6, 1.0)
    ]
    for slower, faster in pairwise(speeds):
        assert faster >= slower * 0.97


def test_a_bound_that_is_kept_anyway_changes_nothing() -> None:
    asked = problem(9, 64, num_prompts=None)
    free = solve(asked)
    assert solve(aiming(asked, max_latency_s=10 * free.prediction.block_s)).policy == free.policy


@each_planner
def test_what_no_block_keeps_is_refused_with_what_one_sequence_takes(planner: Planner) -> None:
    asked = problem(9, 64, num_prompts=None)
    with pytest.raises(InfeasiblePlan) as caught:
        solve(aiming(asked, max_latency_s=1e-9), planner)
    assert (caught.value.code, caught.value.binding) == ("FP405", ("latency",))
    enough = float(caught.value.fix.split()[2].strip(","))
    assert solve(aiming(asked, max_latency_s=enough), planner).prediction.block_s <= enough
    with pytest.raises(InfeasiblePlan):
        solve(aiming(asked, max_latency_s=0.99 * enough), planner)


@pytest.mark.parametrize("part", [0.6, 0.9])
def test_no_block_within_the_bound_is_better_by_the_program(part: float) -> None:
    asked = problem(9, 16, num_prompts=None)
    model = LpPlanner().model(asked)
    every = [found for size in (1, 2, 4, 6) for found in all_blocks(model.programs(size))]
    fastest = min(every, key=lambda o: o.seconds_per_prompt)
    bound = part * fastest.solution.seconds * fastest.num_gpu_batches  # the fastest of all is late
    best, *_ = optimise(LpPlanner().model(aiming(asked, max_latency_s=bound)))
    assert best.solution.seconds * best.num_gpu_batches <= bound
    within = [o.seconds_per_prompt for o in every if o.solution.seconds * o.num_gpu_batches <= bound]
    assert best.seconds_per_prompt <= min(within) * (1 + 1e-7)


def all_blocks(programs: Sequence[Program]) -> list[Optimum]:
    front = Front(programs, None)
    return [found for block in range(len(front.open)) if front.open[block] and (found := front.solve(block))]


def test_too_little_memory_is_said_before_too_little_time() -> None:
    with pytest.raises(InfeasiblePlan) as caught:
        solve(aiming(problem(1, 64), max_latency_s=1e-9))
    assert caught.value.code == "FP403"
    assert caught.value.smallest_budget_bytes["gpu"] is not None


def test_a_planner_that_ignores_the_bound_is_found_out() -> None:
    class Deaf:
        def plan(self, problem: Problem) -> Plan:
            return Plan.of(problem, policy_with(4, 2, w=(0, 100), cache=(0, 100)))

    with pytest.raises(InfeasiblePlan, match="--max-latency allows") as caught:
        solve(aiming(problem(64, 64), max_latency_s=1e-6), Deaf())
    assert caught.value.code == "FP404"


# -- memory ------------------------------------------------------------------------------------------------------
def test_the_smallest_memory_is_as_fast_as_asked_and_much_less_is_not() -> None:
    planner = LpPlanner()
    asked = problem(64, 64, num_prompts=None)
    wanted = 0.5 * solve(asked, planner).prediction.tokens_per_s
    plan = solve(aiming(asked, min_tokens_per_s=wanted), planner)
    budget = plan.problem.hardware.gpu_bytes
    assert plan.prediction.tokens_per_s >= wanted
    assert budget < asked.hardware.gpu_bytes
    assert all(plan.prediction.peak_bytes[tier] <= nbytes for tier, nbytes in plan.problem.budgets().items())
    less = asked.with_budgets(gpu=min(round(0.9 * budget), budget - MiB))
    assert not fast_enough(less, planner, wanted)


def fast_enough(asked: Problem, planner: Planner, wanted: float) -> bool:
    try:
        return solve(asked, planner).prediction.tokens_per_s >= wanted
    except InfeasiblePlan:
        return False


def test_a_throughput_out_of_reach_is_refused_with_what_is_in_reach() -> None:
    asked = problem(9, 64)
    fastest = solve(asked, SearchPlanner()).prediction.tokens_per_s
    with pytest.raises(InfeasiblePlan) as caught:
        solve(aiming(asked, min_tokens_per_s=2 * fastest), SearchPlanner())
    assert (caught.value.code, caught.value.binding) == ("FP406", ("throughput",))
    assert f"{fastest:.3f}" in caught.value.fix


def test_both_bounds_are_kept() -> None:
    asked = problem(64, 64, num_prompts=None)
    free = solve(asked).prediction
    latest = (free.block_s + one_sequence_s(asked, SearchPlanner())) / 2
    goal = Objective(max_latency_s=latest, min_tokens_per_s=free.tokens_per_s / 4)
    plan = solve(asked.model_copy(update={"objective": goal}))
    assert plan.prediction.block_s <= latest
    assert plan.prediction.tokens_per_s >= free.tokens_per_s / 4


# -- what changes tokens -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("host_attention", [False, True])
def test_sparse_attention_is_chosen_where_it_is_allowed_and_faster(host_attention: bool) -> None:
    asked = Problem.of("facebook/opt-30b", gpu_mem="16G", cpu_mem="200G", disk_mem=0)
    where = (host_attention,)
    dense, thin = (
        SearchPlanner(host_attention=where, lossy=lossy).plan(asked) for lossy in ({}, {"attn_sparsity": 0.1})
    )
    assert (dense.policy.attn_sparsity, thin.policy.attn_sparsity) == (1.0, 0.1)
    assert thin.policy.cpu_cache_compute == host_attention
    assert thin.prediction.tokens_per_s > 1.2 * dense.prediction.tokens_per_s
