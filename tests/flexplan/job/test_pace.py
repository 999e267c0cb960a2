"""The pace of a job: which part of its time is behind it, by its plan."""

from __future__ import annotations

import pytest

from flexplan.job import Pace, Standing, UsageMean
from flexplan.plan import Plan
from flexplan.problem import Problem, Workload
from flexplan.testing import policy_with

POLICY = policy_with(4, 2, w=(0, 100), cache=(0, 100), act=(100, 0), cpu_cache_compute=True)


def plan(schedule: str) -> Plan:
    lens = (8, 40, 12, 90) * 12
    work = Workload(prompt_len=16, prompt_lens=(16,) * 48, gen_lens=lens, gen_len=90)
    asked = Problem.of("facebook/opt-125m", hardware="t4-gcp").model_copy(update={"workload": work})
    return Plan.of(asked, POLICY, schedule=schedule)


@pytest.mark.parametrize("schedule", ["zigzag", "rolling"])
def test_time_goes_on_with_every_token_from_nothing_to_all(schedule: str) -> None:
    pace = Pace.of(plan(schedule), 48)
    found = [pace.promised(n / 1000) for n in range(1001)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, 1)


def test_a_block_has_its_first_tokens_when_its_prompts_are_done() -> None:
    asked = plan("zigzag")
    p, tokens = asked.prediction, asked.problem.workload.gen_len
    assert Pace.of(asked, 8).promised(1 / tokens) == pytest.approx(p.prefill_s / p.total_s)


def test_the_last_requests_of_a_rolling_job_take_longer_than_their_tokens() -> None:
    """The seats are half empty by then; a rate alone would promise too much."""
    pace = Pace.of(plan("rolling"), 48)
    assert 1 - pace.promised(0.9) > 0.1
    assert pace.left_s(0.9, 90.0) > 10.0


def test_what_is_left_is_corrected_by_what_was_seen() -> None:
    pace = Pace.of(plan("rolling"), 48)
    assert pace.left_s(0.5, 200.0) == pytest.approx(2 * pace.left_s(0.5, 100.0))


def test_usage_is_the_mean_of_passes() -> None:
    mean = UsageMean()
    assert mean.usage is None
    for live, held in ((4, 10), (2, 30)):
        mean.add(Standing(0, 0, live, 4, held, 40))
    assert mean.usage is not None
    assert (mean.usage.seats, mean.usage.seats_percent, mean.usage.cache_percent) == (4, 75.0, 50.0)
