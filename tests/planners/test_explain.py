"""An explanation says where the time goes, what binds, what more brings by solving again, and who is faster."""

from __future__ import annotations

import pytest
from problems import problem
from rich.console import Console

from flexplan.explanation import Explanation, explain
from flexplan.explanation.sensitivity import step_bytes
from flexplan.plan import Plan, solve
from flexplan.problem import Problem
from flexplan.report.sentences import explanation_view, in_short
from flexplan.testing import policy_with
from flexplan.units import GiB, MiB


def linked(asked: Problem, up_bytes_per_s: float) -> Problem:
    """The same with another link, on which weights are dear."""
    hardware = asked.hardware.model_copy(update={"link_up_bytes_per_s": up_bytes_per_s})
    return asked.model_copy(update={"hardware": hardware})


@pytest.fixture(scope="module")
def found() -> Explanation:
    return explain(solve(linked(problem(8, 12, num_prompts=64), 1e9)))


def gain(found: Explanation, resource: str) -> float:
    return next(g.percent for g in found.gains if g.resource == resource)


def printed(found: Explanation) -> str:
    console = Console(width=120, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(explanation_view(found))
    return capture.get()


def test_a_gain_of_memory_is_a_re_solve(found: Explanation) -> None:
    asked = found.plan.problem
    for resource, tier in (("GPU memory", "gpu"), ("host memory", "cpu")):
        budget = getattr(asked.hardware, f"{tier}_bytes")
        more = solve(asked.with_budgets(**{tier: budget + step_bytes(budget)}), "search")
        percent = 100 * (more.prediction.tokens_per_s / found.plan.prediction.tokens_per_s - 1)
        assert gain(found, resource) == pytest.approx(max(0.0, percent), abs=1e-6)


def test_the_margin_is_the_slope_of_the_program(found: Explanation) -> None:
    """Of the plan's own block, which memory still serves."""
    assert set(found.margins) == {"GPU memory", "host memory", "disk space"}
    assert all(-1e-6 <= margin < 5 for margin in found.margins.values())
    assert found.margins["GPU memory"] > 0.01
    assert "At the margin" in printed(found)


def test_a_plan_with_4_bits_is_solved_again_with_4_bits() -> None:
    asked = linked(problem(7, 12, num_prompts=64), 2e8)
    packed = solve(asked, "search", lossy={"compress_weight": True})
    assert packed.policy.compress_weight
    found = explain(packed)
    budget = asked.hardware.gpu_bytes
    larger = asked.with_budgets(gpu=budget + step_bytes(budget))
    more = solve(larger, "search", schedule=packed.schedule, lossy={"compress_weight": True})  # of no baseline
    percent = 100 * (more.prediction.tokens_per_s / packed.prediction.tokens_per_s - 1)
    assert gain(found, "GPU memory") == pytest.approx(max(0.0, percent), abs=1e-6)
    assert found.margins


def test_more_memory_never_costs(found: Explanation) -> None:
    assert all(g.percent >= 0 for g in found.gains if "memory" in g.more.partition("more")[2])


def test_gains_come_largest_first_and_speak(found: Explanation) -> None:
    percents = [g.percent for g in found.gains]
    assert percents == sorted(percents, reverse=True)
    assert {str(g).rpartition(":")[0] for g in found.gains} >= {
        "2.00 MiB more GPU memory".replace(".00", ""),
        "25 % faster link",
    }
    assert found.worthwhile and all(g.percent >= 1 for g in found.worthwhile)


def test_a_step_is_a_power_of_two_near_a_quarter() -> None:
    for budget in (8 * MiB, 11 * GiB, 24 * GiB, 1000 * GiB):
        assert budget / 8 < step_bytes(budget) <= budget / 4
        assert step_bytes(budget).bit_count() == 1
    assert step_bytes(0) == MiB


def test_lanes_are_busy_no_longer_than_their_phase(found: Explanation) -> None:
    p = found.plan.prediction
    for phase, took in (("prefill", p.prefill_s), ("decode", p.decode_s)):
        busy = p.lane_busy_s[phase]
        assert busy
        assert all(0 <= seconds <= took * 1.01 for seconds in busy.values())
        assert p.busiest_lane[phase] == max(busy, key=lambda lane: busy[lane])


def test_the_plan_is_not_beyond_its_bound(found: Explanation) -> None:
    assert 20 < found.of_bound_percent <= 100.1


def test_where_the_link_is_the_bottleneck_it_is_the_critical_path() -> None:
    slow = explain(solve(linked(problem(8, 64, num_prompts=4), 1e8)))
    path = slow.critical_path
    assert path is not None
    assert slow.plan.prediction.busiest_lane["decode"] == "h2d_weights"
    assert path.percents("h2d_weights")[0] > 90
    assert path.slack_s["h2d_weights"] == 0
    assert path.task_slack_s["gpu"] > path.task_slack_s["h2d_weights"]
    assert "A decoding pass's critical path: 9" in printed(slow) and "% link to the GPU" in printed(slow)
    assert slow.to_dict()["critical_path"]["lanes"].keys() == path.slack_s.keys()


def test_a_plan_that_decodes_nothing_has_no_critical_path_of_a_decoding_pass() -> None:
    one = explain(solve(problem(8, 64, gen_len=1)))
    assert one.critical_path is None and one.to_dict()["critical_path"] is None
    assert "critical path" not in printed(one)


def test_full_tiers_bind(found: Explanation) -> None:
    budgets, need = found.plan.problem.budgets(), found.plan.prediction.peak_bytes
    assert found.binding == tuple(t for t in ("gpu", "cpu", "disk") if budgets[t] and need[t] >= 0.95 * budgets[t])
    assert found.binding


def test_it_says_all_of_it(found: Explanation) -> None:
    text = printed(found)
    for words in ("busiest lane", "of its bound", "Used up", "What more would bring", "realised", 'device_map="auto"'):
        assert words in text
    assert "%" in text


def test_a_plan_by_hand_is_told_of_a_faster_baseline() -> None:
    slow = explain(Plan.of(problem(64, 64), policy_with(1, 1, w=(0, 100), cache=(0, 100), act=(0, 100), overlap=False)))
    assert slow.winner is not None and slow.winner.name == "all resident"
    assert "The baseline all resident is predicted to be faster" in printed(slow)
    assert not any(g.solved for g in slow.gains)


def test_a_plan_that_is_a_baseline_is_called_one() -> None:
    asked = problem(64, 64)
    made = max((r.plan for r in explain(solve(asked)).baselines if r.plan), key=lambda p: p.prediction.tokens_per_s)
    found = explain(made)
    assert found.winner is not None
    assert "nothing faster was found" in printed(found)


def test_the_short_version_needs_no_re_solve(found: Explanation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexplan.explanation.sensitivity.solve", None)
    console = Console(width=120)
    with console.capture() as capture:
        console.print(in_short(found.plan))
    assert "Used up" in capture.get()
