"""Baselines fit, are predicted like any plan, and win where they are faster."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flexplan.model import layer_tensors, schedule_layers
from flexplan.plan import Plan, baseline_results, solve
from flexplan.plan.baselines import BASELINES, all_resident, baseline_result, faster_baseline, whole_layers
from flexplan.plan.budgets import batch_sizes, block_fits, largest_block
from flexplan.plugins import SCHEDULES, make
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.testing import policy_with

GPU, HOST, AUTO, FOUR_BIT = BASELINES
SMALL = Problem.of("facebook/opt-125m", hardware="t4-gcp", gpu_mem="2G", prompt_len=32, gen_len=8, num_prompts=64)
TIGHT = Problem.of("facebook/opt-125m", hardware="t4-gcp", gpu_mem="240M", cpu_mem="4G", prompt_len=32, gen_len=8)


def test_each_has_a_plan_or_a_reason() -> None:
    for problem in (SMALL, TIGHT):
        for found in baseline_results(problem):
            assert (found.plan is None) == bool(found.why_not), found.name
            if found.plan is not None:
                assert found.plan.prediction.tokens_per_s > 0


def test_what_does_not_fit_says_what_it_needs() -> None:
    found = baseline_result(GPU, TIGHT)
    assert found.plan is None
    assert "gpu needs" in found.why_not


def test_4_bit_is_planned() -> None:
    found = baseline_result(FOUR_BIT, SMALL)
    assert found.plan is not None and found.plan.policy.compress_weight


def test_a_baseline_has_the_largest_batch_that_fits() -> None:
    many = TIGHT.workload.model_copy(update={"num_prompts": 9999})
    found = baseline_result(HOST, TIGHT.model_copy(update={"workload": many}))
    assert found.plan is not None
    problem, policy, schedule = found.plan.problem, found.plan.policy, make(SCHEDULES, "zigzag")
    larger = next(size for size in batch_sizes(problem) if size > policy.gpu_batch_size)
    assert block_fits(problem, policy, schedule)
    assert not block_fits(problem, replace(policy, gpu_batch_size=larger), schedule)


# -- device_map="auto" -------------------------------------------------------------------------------------------
def test_auto_keeps_whole_layers_on_the_gpu_and_copies_one_thing_at_a_time() -> None:
    policy = whole_layers(TIGHT, 4)
    shape = TIGHT.model
    layers = [sum(t.nbytes for t in layer_tensors(shape, layer)) for layer in schedule_layers(shape, False)]
    on_gpu = policy.w_gpu_percent / 100 * sum(layers)
    assert 0 < policy.w_gpu_percent < 100
    assert min(abs(on_gpu - sum(layers[:n])) for n in range(len(layers) + 1)) < 1e-4 * sum(layers)
    assert policy.w_gpu_percent + policy.w_cpu_percent == 100
    assert (policy.overlap, policy.pin_weight, policy.cache_gpu_percent) == (False, False, 100)
    assert block_fits(TIGHT, policy, make(SCHEDULES, "rowwise"))


def test_auto_with_room_for_all_is_all_resident() -> None:
    assert whole_layers(SMALL, 4).w_gpu_percent == 100


def test_auto_goes_on_to_disk_where_the_host_is_full() -> None:
    problem = TIGHT.with_budgets(cpu=60 << 20, disk=4 << 30)
    policy = whole_layers(problem, 1)
    assert policy.w_disk_percent > 0
    assert block_fits(problem, policy, make(SCHEDULES, "rowwise"))


# -- against a plan ----------------------------------------------------------------------------------------------
def test_a_slow_plan_is_beaten_by_a_baseline() -> None:
    slow = Plan.of(SMALL, policy_with(2, 1, w=(0, 100), cache=(0, 100), act=(0, 100), overlap=False))
    found = faster_baseline(slow)
    assert found is not None and found.plan is not None
    fastest = max(r.plan.prediction.tokens_per_s for r in baseline_results(SMALL) if r.plan)
    assert found.plan.prediction.tokens_per_s == fastest > slow.prediction.tokens_per_s


def test_no_baseline_beats_itself() -> None:
    best = max((r.plan for r in baseline_results(SMALL) if r.plan), key=lambda p: p.prediction.tokens_per_s)
    assert faster_baseline(best) is None


def test_a_baseline_that_is_too_late_does_not_win() -> None:
    slow = Plan.of(SMALL, policy_with(1, 1, w=(0, 100), cache=(0, 100), act=(0, 100)))
    bound = SMALL.objective.model_copy(update={"max_latency_s": slow.prediction.block_s / 1e6})
    assert faster_baseline(slow.under(SMALL.model_copy(update={"objective": bound}))) is None


class Slow:
    """A planner that could do better."""

    def plan(self, problem: Problem) -> Plan:
        return Plan.of(problem, policy_with(1, 1, w=(0, 100), cache=(0, 100), act=(0, 100)), planner="slow")


def test_solve_gives_a_faster_baseline_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "flexplan.plan.planner.make", lambda group, name, **options: Slow() if name == "slow" else make(group, name)
    )
    with pytest.warns(
        UserWarning, match="the baseline all resident is predicted to be .* faster than the plan of planner slow"
    ):
        plan = solve(SMALL, "slow")
    assert (plan.planner, plan.policy.w_gpu_percent) == ("slow", 100)


def test_an_instance_and_percents_by_hand_are_taken_at_their_word(recwarn: pytest.WarningsRecorder) -> None:
    assert solve(SMALL, Slow()).policy.w_gpu_percent == 0
    assert solve(SMALL, "manual", policy=policy_with(1, 1, w=(0, 100), cache=(0, 100))).policy.w_gpu_percent == 0
    assert not recwarn.list


def test_the_largest_block_of_percents() -> None:
    schedule = make(SCHEDULES, "zigzag")
    assert largest_block(SMALL, all_resident(SMALL, 4), schedule) == (4, 1)
    assert largest_block(TIGHT, Policy(4, 2), schedule) is None
