"""Layers with windows keep their windows alone: tokens are transformers', however often the rings come round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from flexplan_runtime import ExecutionEnv, OffloadedLM
from flexplan_runtime.attention import prompts as prompts_attend
from policies import NEAR_TIE, Case, blocks_of, covering, generated, opened, random_prompts, reference
from tiny_models import CONFIGS, saved

from flexplan.model import ModelShape
from flexplan.policy import CompressionConfig, Policy
from flexplan.testing import policy_with

LONG = 15  # new tokens: prompts are of 1 to 11, windows of 5
PACKED = {"compress_cache": True, "comp_cache_config": CompressionConfig(8, 8, 2)}
IN_4_BITS = {"compress_cache": True, "comp_cache_config": CompressionConfig(4, 8, 2)}
ROLLING = [
    Case(Policy(2, 2, 0, 100, 50, 50, cpu_cache_compute=True, admit_tokens=9), "rolling", 9, LONG),
    Case(Policy(1, 3, sep_layer=False), "rolling", 9, LONG),
    Case(Policy(3, 2, 30, 40, 0, 100, overlap=False, cpu_cache_compute=True, room_percent=40), "rolling", 9, LONG),
]


def cases(count: int, seed: int) -> list[Case]:
    return [replace(case, num_prompts=min(case.num_prompts, 9)) for case in covering(count, seed, gen_len=(LONG,))]


@pytest.mark.parametrize("name", ["mistral with windows", "gemma3", "gpt-oss"])
def test_tokens_are_those_of_transformers_when_rings_come_round(name: str, tmp_path: Path) -> None:
    model = saved(CONFIGS[name], tmp_path / "model")
    expected = reference(model, random_prompts(CONFIGS[name].vocab_size, 9), gen_len=LONG)
    for case in [*cases(7, seed=len(name)), *ROLLING]:
        output = generated(tmp_path / "model", case, expected.prompts, tmp_path)
        differing = expected.rows_that_differ(case, output)
        assert all(gap < NEAR_TIE for _, gap in differing), f"{case}: {differing}"
        assert len(differing) <= 1, case


@pytest.mark.parametrize("name", ["gemma3", "gpt-oss"])
def test_tokens_are_those_of_a_cache_that_keeps_all(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With packed vectors, too, which transformers does not round as we do."""
    saved(CONFIGS[name], tmp_path / "model")
    prompts = random_prompts(CONFIGS[name].vocab_size, 9)
    some = [replace(case, policy=replace(case.policy, **PACKED)) for case in cases(3, seed=1)]
    some += [replace(case, policy=replace(case.policy, **IN_4_BITS)) for case in (*cases(2, seed=3), *ROLLING[:2])]
    rings = [generated(tmp_path / "model", case, prompts, tmp_path) for case in some]
    monkeypatch.setattr(ModelShape, "kept", lambda self, depth, tokens: tokens)
    for case, output in zip(some, rings, strict=True):
        policy = replace(case.policy, gpu_batch_size=4)  # another key than what is remembered
        whole = Case(policy, case.schedule.replace("rolling", "zigzag"), case.num_prompts, LONG)
        differing = (output != generated(tmp_path / "model", whole, prompts, tmp_path)).any(1).sum()
        # of few codes one may lie on an edge, and falls to either side with the width of a product
        assert differing <= (case.policy.comp_cache_config.num_bits == 4), case


def test_a_window_takes_the_room_of_a_window(tmp_path: Path) -> None:
    saved(CONFIGS["gemma3"], tmp_path / "model")  # three layers, two with windows of 5
    policy = policy_with(2, 1, cache=(0.0, 100.0), cpu_cache_compute=True)
    with opened(tmp_path / "model", policy, tmp_path) as lm:
        placed = blocks_of(lm, [[5] * 11, [6] * 11], 8)[0].placement
        lm.generate([[5] * 11, [6] * 11], max_new_tokens=8)
        held = lm.env.ledger.stored["cache", "cpu"]
    assert [row[0].capacity for row in placed.cache] == [5, 5, 18]
    assert held == 2 * 2 * 2 * 16 * 4 * (5 + 5 + 11)  # rows, heads, keys and values, floats; of the prompt's 11


@pytest.mark.parametrize("name", ["mistral with windows", "gemma2", "gpt-oss"])
def test_a_long_prompt_attends_window_by_window(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexplan.cost.work._TOGETHER", 1)
    model = saved(CONFIGS[name], tmp_path / "model")
    expected = reference(model, random_prompts(CONFIGS[name].vocab_size, 9, seed=3))
    prompts = [*expected.prompts[:8], (expected.prompts[0] * 23)[:23]]
    expected, blocks, by_parts = reference(model, prompts), [], prompts_attend._by_parts
    monkeypatch.setattr(prompts_attend, "_by_parts", lambda *given: blocks.append(given) or by_parts(*given))
    for case in (Case(Policy(9, 1), num_prompts=9), Case(Policy(2, 3, sep_layer=False), "rolling", num_prompts=9)):
        differing = expected.rows_that_differ(case, generated(tmp_path / "model", case, prompts, tmp_path))
        assert all(gap < NEAR_TIE for _, gap in differing), f"{case}: {differing}"
    assert blocks


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["mistral with windows", "gemma3", "gpt-oss"])
@pytest.mark.parametrize("packed", [False, True])
def test_tokens_are_those_of_the_host_where_steps_are_captured(name: str, packed: bool, tmp_path: Path) -> None:
    model = saved(CONFIGS[name], tmp_path / "model")
    expected = reference(model, random_prompts(CONFIGS[name].vocab_size, 9), gen_len=LONG)
    for case in cases(5, seed=2):
        policy = replace(case.policy, **PACKED) if packed else case.policy
        on_host = generated(tmp_path / "model", replace(case, policy=policy), expected.prompts, tmp_path)
        with (
            ExecutionEnv.create(tmp_path, device="cuda:0", deadline_s=30) as env,
            OffloadedLM(str(tmp_path / "model"), env, tmp_path / "model", policy, dtype="float32") as lm,
        ):
            prompts = expected.prompts[: case.num_prompts]
            output = lm.generate(prompts, max_new_tokens=LONG, pad_token_id=0)
        assert (output != on_host).any(1).sum() <= 1, case  # a near tie
