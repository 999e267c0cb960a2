"""The search for rolling policies: of lists of many lengths it finds what fits, and what is faster."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

import pytest
from flexplan_planners.rolling_search import RollingSearch, thinned

from flexplan.cost import Rates
from flexplan.errors import InfeasiblePlan, PolicyError, UsageError
from flexplan.explanation.phases import job_bound
from flexplan.placement import Placement
from flexplan.plan import Plan, simulate, solve
from flexplan.policy import Policy, rolling_block
from flexplan.problem import Problem, Workload, expectation_of
from flexplan.sandbox import schedule_of
from flexplan.schedule import sweep_of_boarding
from flexplan.simulation import job_time, least_job_s, peak_bytes
from flexplan.simulation.bounds import busy_seconds
from flexplan.simulation.rolling import _least_of_pass, boardings_of
from flexplan.testing import policy_with


def ragged(count: int, seed: int = 0) -> Problem:
    draw = random.Random(seed)
    lens = tuple(min(900, round(draw.lognormvariate(4.5, 0.8)) + 1) for _ in range(count))
    most = tuple(min(400, round(draw.lognormvariate(3.5, 1.0)) + 1) for _ in range(count))
    machine = {"gpu_mem": "500M", "cpu_mem": "3G", "disk_mem": "20G", "hardware": "t4-gcp"}
    return Problem.of("facebook/opt-350m", prompt_lens=lens, gen_lens=most, **machine)


@cache
def rolled() -> Plan:
    return solve(ragged(60), schedule="rolling")


def test_a_list_of_many_lengths_is_rolled_where_that_is_faster() -> None:
    blocks, chosen = solve(ragged(60), schedule="zigzag"), solve(ragged(60))
    assert chosen.schedule == "rolling" and chosen == rolled()
    assert chosen.prediction.tokens_per_s > 1.5 * blocks.prediction.tokens_per_s


def test_the_plan_keeps_the_budgets_and_is_a_plan_like_any_other() -> None:
    plan = rolled()
    need = peak_bytes(plan.problem, plan.policy, schedule_of("rolling"))
    assert all(need[tier] <= most for tier, most in plan.problem.budgets().items())
    assert need == plan.prediction.peak_bytes
    assert Plan.from_json(plan.to_json()) == plan
    assert simulate(plan, keep=False).end_s == pytest.approx(plan.prediction.total_s)


def test_a_job_takes_no_less_than_its_work() -> None:
    plan = rolled()
    job = job_time(plan.problem, plan.policy)
    assert job.bound_s <= least_job_s(plan.problem, plan.policy, 24) * 1.001 <= job.seconds * 1.002
    assert job_bound(plan).total_s == pytest.approx(job.bound_s)


@pytest.mark.parametrize("name", ["openai/gpt-oss-20b", "google/gemma-3-1b-it", "deepseek-ai/DeepSeek-V2-Lite"])
def test_layers_of_several_kinds_are_counted_by_few(name: str) -> None:
    """Windows in turns, dense layers before experts; the last turn may be cut short."""
    work = ragged(40).workload
    machine = {"gpu_mem": "80G", "cpu_mem": "200G", "disk_mem": 0, "hardware": "h200-pcie5"}
    problem = Problem.of(name, prompt_lens=work.prompt_lens, gen_lens=work.gen_lens, **machine)
    policy = Policy(4, 2, 20, 80, 50, 50, cpu_cache_compute=True)
    found = RollingSearch(problem, (True,), (False,), {}, rounds=0)._need(policy)
    need = peak_bytes(problem, policy, schedule_of("rolling"))
    assert all(need[tier] <= found[tier] <= 1.02 * need[tier] for tier in need), (need, found)
    boardings, block = boardings_of(problem.workload, policy), rolling_block(problem.workload, policy)
    placement = Placement.of(problem.model, policy, block)
    whole = busy_seconds(sweep_of_boarding(placement, boardings[1]).tasks, Rates(problem.hardware))
    assert max(_least_of_pass(problem, policy, block, boardings[1]).values()) == pytest.approx(
        max(whole.values()), 0.01
    )


def test_more_samples_say_nearly_the_same() -> None:
    plan = rolled()
    few, many = (job_time(plan.problem, plan.policy, samples).seconds for samples in (8, 1000))
    assert few == pytest.approx(many, rel=0.05)
    assert plan.prediction.total_s == pytest.approx(many, rel=0.03)


def test_a_thinned_list_has_the_longest_of_both() -> None:
    problem = ragged(7000)
    work, some = problem.workload, thinned(problem).workload
    assert some.num_prompts is not None and some.num_prompts <= 1500
    assert (some.prompt_len, some.gen_len) == (work.prompt_len, work.gen_len)


def test_seats_are_sized_by_what_is_expected_where_that_is_faster() -> None:
    problem = ragged(60)
    lens, seen = problem.workload.prompt_lens, problem.workload.gen_lens
    allowed = Workload(prompt_lens=lens, gen_len=400)
    known = expectation_of(list(zip(lens, seen, strict=True)), 400)
    likely = allowed.model_copy(update={"expected_lens": known.lens, "expected_prompts": known.prompts})
    plan = solve(problem.model_copy(update={"workload": likely}), schedule="rolling", effort="quick")
    assert plan.policy.room_percent and Plan.from_json(plan.to_json()) == plan
    for_the_most = solve(problem.model_copy(update={"workload": allowed}), schedule="rolling", effort="quick").policy
    by_most = job_time(plan.problem, for_the_most)
    assert plan.prediction.total_s < 0.95 * by_most.seconds
    assert plan.prediction.tokens_per_s == pytest.approx(likely.new_tokens(60) / plan.prediction.total_s)


def test_the_longest_that_is_allowed_has_a_seat_or_is_refused() -> None:
    problem = ragged(20).with_budgets(gpu=200 << 20, cpu=900 << 20, disk=0)
    work = Workload(prompt_lens=problem.workload.prompt_lens, gen_len=1500, expected_lens=(5,))
    policy = policy_with(2, 2, w=(0, 100), cache=(0, 100), cpu_cache_compute=True, room_percent=100)
    plan = Plan.of(problem.model_copy(update={"workload": work}), policy, schedule="rolling")
    longest = max(batch.prompt_len for batch in rolling_block(work, policy).batches)
    assert longest == work.prompt_len + 1500 - 1 and plan.free_bytes["cpu"] < 100 << 20
    less = plan.problem.with_budgets(cpu=plan.prediction.peak_bytes["cpu"] - (20 << 20))
    with pytest.raises(InfeasiblePlan, match="cpu"):
        Plan.of(less, policy, schedule="rolling")


@pytest.mark.parametrize(
    ("prompt_len", "gen_len", "count"), [(100, 40, 60), (100, 40, 600), (30, 100, 600), (64, 8, 600), (100, 40, 17)]
)
def test_equal_requests_that_come_and_go_together_take_what_a_block_takes(
    prompt_len: int, gen_len: int, count: int
) -> None:
    work = Workload(prompt_len=prompt_len, gen_len=gen_len, num_prompts=count)
    problem = ragged(1).model_copy(update={"workload": work})
    block, rolling = (solve(problem, schedule=name).prediction.total_s for name in ("zigzag", "rolling"))
    assert rolling <= 1.01 * block


@pytest.mark.parametrize(
    ("policy", "what"),
    [
        (replace(Policy(2, 2), act_gpu_percent=0, act_cpu_percent=100), "act_gpu_percent 0"),
        (replace(Policy(2, 2), cache_gpu_percent=0, cache_cpu_percent=100), "streams"),
        (replace(Policy(2, 2), cache_gpu_percent=50, cache_cpu_percent=0), "cache_disk_percent 50"),
        (replace(Policy(2, 2), attn_sparsity=0.1), "attn_sparsity 0.1"),
    ],
)
def test_what_does_not_roll_is_refused_when_it_is_planned(policy: Policy, what: str) -> None:
    with pytest.raises(PolicyError, match=what):
        Plan.of(ragged(5), policy, schedule="rolling")


def test_the_linear_program_alone_writes_no_rolling_policies() -> None:
    with pytest.raises(UsageError, match="FP129"):
        solve(ragged(5), "lp", schedule="rolling")


def test_equal_answers_are_planned_as_before() -> None:
    work = Workload(prompt_lens=(30, 40, 50), gen_len=8)
    assert solve(ragged(3).model_copy(update={"workload": work})).schedule == "zigzag"
