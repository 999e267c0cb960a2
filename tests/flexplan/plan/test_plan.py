"""The plan: what is saved reads back, what was edited is computed anew, what does not fit is refused."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import TINY

from flexplan.cost import Rates
from flexplan.errors import FlexplanError, InfeasiblePlan, PluginError, PolicyError
from flexplan.hardware import hardware_from
from flexplan.plan import Plan, load_policy, solve
from flexplan.plan.planner import check_plan
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.simulation import simulate_graph
from flexplan.testing import policy_with, shallow

PROBLEM = Problem.of(TINY, prompt_len=16, gen_len=4, num_prompts=10)
POLICY = policy_with(2, 2, w=(30, 40), cache=(30, 40), act=(30, 40))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan.of(PROBLEM, POLICY)


def edited(plan: Plan, **changes: Any) -> str:
    return json.dumps({**plan.to_dict(), **changes})


# -- round trips ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("schedule", ["zigzag", "rowwise"])
def test_a_saved_plan_loads_as_it_was(schedule: str, tmp_path: Path) -> None:
    saved = Plan.of(PROBLEM, POLICY, schedule=schedule)
    saved.save(tmp_path / "plan.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = Plan.load(tmp_path / "plan.json")
    assert loaded == saved
    assert loaded.graph.to_text() == saved.graph.to_text()


def test_the_same_problem_gives_the_same_bytes(plan: Plan) -> None:
    assert Plan.of(PROBLEM, POLICY).to_json() == plan.to_json()


def test_a_file_may_hold_a_plan_or_only_policy_fields(plan: Plan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    (tmp_path / "policy.json").write_text(POLICY.to_json())
    (tmp_path / "by_hand.json").write_text('{"w_gpu_percent": 50}')
    assert load_policy(tmp_path / "plan.json") == plan
    assert load_policy(tmp_path / "policy.json") == POLICY
    assert load_policy(tmp_path / "by_hand.json") == Policy(w_gpu_percent=50)


def test_the_graph_is_not_saved(plan: Plan) -> None:
    assert len(plan.to_json()) < 10_000


def test_realised_shares_stand_beside_the_asked_ones(plan: Plan) -> None:
    shares = plan.to_dict()["placement"]
    assert shares["asked"]["w"] == [30, 40, 30]
    assert shares["realised"]["w"] == pytest.approx([30, 40, 30], abs=1)


# -- edited and damaged files -----------------------------------------------------------------------------------
def test_an_edited_policy_wins_and_its_prediction_is_computed_anew(plan: Plan) -> None:
    policy = replace(POLICY, w_gpu_percent=60.0)
    with pytest.warns(UserWarning, match="edited"):
        loaded = Plan.from_json(edited(plan, policy=policy.to_dict()))
    assert loaded.policy == policy
    assert loaded == Plan.of(PROBLEM, policy)
    assert loaded.prediction != plan.prediction


def test_an_edit_that_does_not_fit_is_refused(plan: Plan) -> None:
    exact = PROBLEM.hardware.with_budget(gpu=PROBLEM.budget_for("gpu", plan.prediction.peak_bytes["gpu"]))
    fits = Plan.of(PROBLEM.model_copy(update={"hardware": exact}), POLICY)
    with pytest.warns(UserWarning, match="edited"), pytest.raises(InfeasiblePlan):
        Plan.from_json(edited(fits, policy=replace(POLICY, gpu_batch_size=5).to_dict()))


def test_a_wrong_policy_field_in_a_plan_is_named(plan: Plan) -> None:
    with pytest.raises(PolicyError, match="w_gpu_percent"):
        Plan.from_json(edited(plan, policy={**POLICY.to_dict(), "w_gpu_percent": "30"}))


@pytest.mark.parametrize("key", ["policy", "problem", "schedule", "prediction", "placement"])
def test_a_missing_part_is_named(plan: Plan, key: str) -> None:
    given = plan.to_dict()
    del given[key]
    with pytest.raises(PolicyError, match=key):
        Plan.from_json(json.dumps(given))


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": None},
        {"problem": {}},
        {"problem": []},
        {"prediction": {}},
        {"prediction": 3},
        {"prediction": {"of": 1, "speed": 2}},
        {"placement": {}},
        {"placement": {"realised": 3}},
        {"policy": []},
        {"policy": "fast"},
        {"schedule": "spiral"},
        {"schedule": 3},
    ],
    ids=str,
)
def test_a_damaged_plan_is_an_error_for_people(plan: Plan, change: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            Plan.from_json(edited(plan, **change))
        except FlexplanError as error:
            assert error.fix
            return
    assert change.keys() <= {"prediction"}  # what is stale is computed anew


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for read in (Plan.load, load_policy):
        with pytest.raises(PolicyError, match=r"nowhere\.json"):
            read(tmp_path / "nowhere.json")


# -- what it promises -------------------------------------------------------------------------------------------
def test_a_short_job_is_predicted_exactly() -> None:
    problem = Problem.of(TINY, prompt_len=16, gen_len=4)
    made = Plan.of(problem, POLICY)
    assert made.prediction.total_s == pytest.approx(simulate_graph(made.graph, Rates(problem.hardware)).end_s)
    assert made.prediction.tokens_per_s == pytest.approx(4 * 4 / made.prediction.total_s)


def test_a_long_job_is_predicted_within_a_hundredth() -> None:
    problem = Problem.of(TINY, prompt_len=64, gen_len=200)
    made = Plan.of(problem, POLICY)
    exact = simulate_graph(made.graph, Rates(problem.hardware), keep=False).end_s
    assert made.prediction.total_s == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("tiers", [(30.0, 70.0), (20.0, 30.0), (0.0, 0.0)], ids=["host", "some on disk", "all on disk"])
@pytest.mark.parametrize("schedule", ["zigzag", "rowwise"])
def test_a_deep_model_is_predicted_from_a_few_of_its_layers(tiers: tuple[float, float], schedule: str) -> None:
    deep = TINY.model_copy(update={"num_layers": 24})
    problem = Problem.of(deep, prompt_len=64, gen_len=20, disk_mem="1G")
    gpu, cpu = tiers
    policy = policy_with(4, 3, w=(gpu, cpu), cache=(gpu, cpu), act=(gpu, cpu), cpu_cache_compute=False)
    made = Plan.of(problem, policy, schedule=schedule)
    exact = simulate_graph(made.graph, Rates(problem.hardware), keep=False).end_s
    assert made.prediction.total_s == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("sep_layer", [False, True])
@pytest.mark.parametrize("num_layers", [22, 23, 24])
def test_what_weights_wait_for_between_passes_is_predicted(num_layers: int, sep_layer: bool) -> None:
    """Which layers of a pass wait for a slot depends on what is over when three slots are counted off."""
    shape = shallow("facebook/opt-1.3b", num_layers)
    problem = Problem.of(shape, gpu_mem="8G", prompt_len=64, gen_len=20)
    made = Plan.of(
        problem,
        policy_with(8, 3, w=(0, 100), cache=(0, 100), act=(0, 100), sep_layer=sep_layer, cpu_cache_compute=True),
    )
    exact = simulate_graph(made.graph, Rates(problem.hardware), keep=False).end_s
    assert made.prediction.total_s == pytest.approx(exact, rel=0.005)


def test_a_copy_that_takes_longer_than_a_few_layers_does_not_hide_the_others() -> None:
    """Many layers are extrapolated from few, where one slow copy is all that a pass waits for."""
    given = Problem.of("opt-6.7b", hardware="h200-pcie5", gpu_mem="40G", prompt_len=8, gen_len=4)
    slow = given.model_copy(update={"hardware": given.hardware.model_copy(update={"copy_s": 1e-3})})
    plan = Plan.of(slow, Policy(2, 1, sep_layer=False))
    assert plan.prediction.total_s == pytest.approx(simulate_graph(plan.graph, Rates(slow.hardware)).end_s, rel=0.005)


def test_a_plan_is_accepted_by_the_checker(plan: Plan) -> None:
    check_plan(plan)


def test_solve_holds_a_planner_to_its_budget(plan: Plan) -> None:
    class Optimist:
        def plan(self, problem: Problem) -> Plan:
            return replace(plan, problem=problem)

    solve(PROBLEM, Optimist())
    tight = PROBLEM.model_copy(update={"hardware": PROBLEM.hardware.with_budget(gpu=4096)})
    with pytest.raises(PluginError, match="Optimist") as refusal:
        solve(tight, Optimist())
    assert refusal.value.code == "FP906"


def test_a_planner_that_breaks_or_answers_nonsense_is_named() -> None:
    class Broken:
        def plan(self, problem: Problem) -> Plan:
            raise KeyError("w")

    class Nonsense:
        def plan(self, problem: Problem) -> Any:
            return "fast"

    with pytest.raises(PluginError, match="Broken"):
        solve(PROBLEM, Broken())
    with pytest.raises(PluginError, match="returned str"):
        solve(PROBLEM, Nonsense())


def test_packed_and_sparse_plans_read_fewer_bytes() -> None:
    """Of the same placement: what is smaller, or read in part, costs no more time or memory."""
    plain = replace(POLICY, w_gpu_percent=0.0, w_cpu_percent=100.0)
    before = Plan.of(PROBLEM, plain).prediction
    for fields in ({"compress_weight": True}, {"compress_cache": True}):
        after = Plan.of(PROBLEM, replace(plain, **fields)).prediction
        assert after.peak_bytes["cpu"] + after.peak_bytes["gpu"] < before.peak_bytes["cpu"] + before.peak_bytes["gpu"]
    thin = Plan.of(PROBLEM, replace(plain, cache_gpu_percent=100.0, cache_cpu_percent=0.0, attn_sparsity=0.1))
    dense = Plan.of(PROBLEM, replace(plain, cache_gpu_percent=100.0, cache_cpu_percent=0.0))
    assert thin.prediction.decode_s <= dense.prediction.decode_s


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("cache_gpu", [0.0, 30.0])
def test_a_cache_that_streams_takes_the_link_as_long_as_its_keys_and_chosen_values(
    cache_gpu: float, share: float
) -> None:
    at_once = hardware_from().model_copy(update={"copy_s": 18e-6})
    problem = Problem.of(TINY, prompt_len=1024, gen_len=9, cpu_mem="64G", hardware=at_once)
    dense = Policy(16, 3, cache_gpu_percent=cache_gpu, cache_cpu_percent=100 - cache_gpu)
    thin = Plan.of(problem, replace(dense, attn_sparsity=share))
    check_plan(thin)
    took = thin.prediction.decode_s / Plan.of(problem, dense).prediction.decode_s
    assert took == pytest.approx((1 + share) / 2, abs=0.05)  # the start of more tasks, and what does not stream


def test_a_sparse_decode_that_streams_is_predicted_from_a_few_of_its_passes() -> None:
    problem = Problem.of(TINY, prompt_len=64, gen_len=20)
    made = Plan.of(problem, policy_with(4, 3, w=(30.0, 70.0), cache=(0.0, 100.0), attn_sparsity=0.1))
    exact = simulate_graph(made.graph, Rates(problem.hardware), keep=False).end_s
    assert made.prediction.total_s == pytest.approx(exact, rel=0.02)
