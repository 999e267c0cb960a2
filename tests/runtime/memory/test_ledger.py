"""Realised shares are counted where bytes are put, and are the asked ones within a point or the grain."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from flexplan_runtime import ExecutionEnv, OffloadedLM
from flexplan_runtime.embedded import tiny_opt_path

from flexplan.graph import TIERS
from flexplan.placement import Placement
from flexplan.policy import Policy, fill_blocks
from flexplan.problem import Workload
from flexplan.testing import policy_with

PROMPTS = [[5, 6, 7, 8], [11, 12, 13, 14], [20, 21, 22, 23], [30, 31, 32, 33]]


def drawn(seed: int) -> Policy:
    draw = random.Random(seed)
    shares = {}
    for name in ("w", "cache", "act"):
        gpu = draw.choice([0, 10, 35, 50, 100])
        shares[name] = (gpu, draw.choice([0, (100 - gpu) // 3, 100 - gpu]))
    return policy_with(draw.choice([1, 2, 4]), draw.choice([1, 2]), **shares, cpu_cache_compute=draw.random() < 0.5)


@pytest.mark.parametrize("seed", range(12))
def test_what_was_put_on_each_tier_is_what_was_asked(seed: int, tmp_path: Path) -> None:
    policy = drawn(seed)
    workload = Workload(prompt_lens=tuple(map(len, PROMPTS[: policy.block_size])), gen_len=3)
    with (
        ExecutionEnv.create(tmp_path, device="cpu") as env,
        OffloadedLM(str(tiny_opt_path()), env, tiny_opt_path(), policy, dtype="float32") as lm,
    ):
        lm.generate(PROMPTS[: policy.block_size], max_new_tokens=3)
        lm.generate(PROMPTS[: policy.block_size], max_new_tokens=3)
        found = lm.realised()
        placement = Placement.of(lm.shape, policy, next(fill_blocks(workload, policy)))
    planned = placement.realised()
    grains = sum(s.num_grains for row in placement.cache for s in row)
    for n in range(len(TIERS)):
        assert abs(found["w"][n] - 100 * policy.shares("w")[n]) <= 1
        assert abs(found["cache"][n] - 100 * policy.shares("cache")[n]) <= max(1, 100 / grains)
        assert abs(found["act"][n] - 100 * policy.shares("act")[n]) <= 1 + 6400 / placement.hidden_bytes(0, 0)
        assert found["w"][n] == pytest.approx(planned["w"][n])
        assert found["cache"][n] == pytest.approx(planned["cache"][n])


def test_of_a_rolling_job_the_prompts_that_came_in_are_counted(tmp_path: Path) -> None:
    """Equal prompts, as many to each seat, leave what the placement says."""
    policy = policy_with(2, 2, w=(30, 70), cache=(40, 60), cpu_cache_compute=True)
    with (
        ExecutionEnv.create(tmp_path, device="cpu") as env,
        OffloadedLM(str(tiny_opt_path()), env, tiny_opt_path(), policy, schedule="rolling", dtype="float32") as lm,
    ):
        lm.complete([[2, 100, 200]] * 8, 3)
        found = lm.realised()
    assert found["cache"] == pytest.approx((40, 60, 0), abs=2)
    assert found["act"] == pytest.approx((100, 0, 0))
