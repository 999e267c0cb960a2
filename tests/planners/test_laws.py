"""Laws of the planners over random problems."""

from __future__ import annotations

import pytest
from flexplan_planners.lp import read_back, shares_of
from flexplan_planners.lp_planner import LpPlanner
from flexplan_planners.schedules.zigzag import ZigZag
from flexplan_planners.search_planner import SearchPlanner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from problems import SHAPES, problem

from flexplan.errors import InfeasiblePlan
from flexplan.graph import check_memory
from flexplan.placement import Layout, Placement
from flexplan.plan import Plan
from flexplan.policy import fill_blocks
from flexplan.problem import Problem
from flexplan.simulation import peak_bytes

LAW = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
SEARCH_LAW = settings(LAW, max_examples=8)

problems = st.builds(
    problem,
    gpu=st.floats(5, 24),
    cpu=st.floats(4, 48),
    disk=st.sampled_from([0, 0, 64]),
    model=st.sampled_from(SHAPES),
    prompt_len=st.integers(4, 64),
    gen_len=st.integers(1, 16),
    num_prompts=st.sampled_from([None, 1, 7, 24]),
    hardware=st.sampled_from(["t4-gcp", "h100-pcie5", "cpu-host"]),
)
tiers = st.sampled_from(["gpu", "cpu", "disk"])
growth = st.floats(1.0, 2.0)


def more(asked: Problem, tier: str, factor: float) -> Problem:
    budget = int(getattr(asked.hardware, f"{tier}_bytes") * factor) + 1
    return asked.with_budgets(**{tier: budget})


def seconds(asked: Problem) -> float:
    """The linear program's own objective."""
    found = LpPlanner().optima(asked)
    return found[0].seconds_per_prompt if found else float("inf")


def speed(asked: Problem) -> float:
    try:
        return SearchPlanner().plan(asked).prediction.tokens_per_s
    except InfeasiblePlan:
        return 0.0


@LAW
@given(problems, tiers, growth)
def test_more_memory_is_never_slower_for_the_linear_program(asked: Problem, tier: str, factor: float) -> None:
    assert seconds(more(asked, tier, factor)) <= seconds(asked) * (1 + 1e-6)


@SEARCH_LAW
@given(problems, tiers, growth)
def test_more_memory_is_at_most_1_percent_slower_for_the_search(asked: Problem, tier: str, factor: float) -> None:
    assert speed(more(asked, tier, factor)) >= speed(asked) * 0.99


@LAW
@given(problems)
def test_budgets_are_never_exceeded(asked: Problem) -> None:
    try:
        plan = LpPlanner().plan(asked)
    except InfeasiblePlan:
        return
    block = next(fill_blocks(asked.workload, plan.policy))
    placement = Placement.of(asked.model, plan.policy, block, plan.graph.live)
    check_memory(plan.graph, asked.budgets(), {"gpu": Layout.of(placement).arena_bytes["gpu.workspace"]})


@LAW
@given(problems)
def test_an_optimum_fits_as_it_is(asked: Problem) -> None:
    """The rows of memory are upper bounds of the placement, so an optimum fits; fitting makes it no slower."""
    planner = LpPlanner()
    for optimum in planner.optima(asked)[:1]:
        policy = read_back(optimum.program, optimum.num_gpu_batches, optimum.solution.shares)
        need = peak_bytes(asked, policy, ZigZag())
        assert all(need[tier] <= budget for tier, budget in asked.budgets().items())
        fitted = planner.fitted(asked, optimum)
        assert fitted is not None
        seconds = [optimum.program.seconds(shares_of(p), optimum.num_gpu_batches) for p in (fitted, policy)]
        assert seconds[0] <= seconds[1]


@SEARCH_LAW
@given(problems)
def test_equal_problems_get_equal_bytes(asked: Problem) -> None:
    def text() -> str:
        try:
            plan: Plan = SearchPlanner().plan(asked)
        except InfeasiblePlan as refusal:
            return str(refusal)
        return plan.to_json()

    assert text() == text()


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_machine_twice_as_fast_takes_half_the_time(factor: float) -> None:
    asked = problem(8, 32)
    changes = {
        name: value * (factor if name.endswith("_per_s") else 1 / factor)
        for name, value in asked.hardware.model_dump().items()
        if name.endswith("_s") and value is not None
    }
    faster = asked.model_copy(update={"hardware": asked.hardware.model_copy(update=changes)})
    assert seconds(faster) == pytest.approx(seconds(asked) / factor, rel=1e-6)
