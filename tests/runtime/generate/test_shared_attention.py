"""Attention shared between the host and the gpu: `cache_stream_percent` of the host's grains are copied meanwhile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from policies import (
    NEAR_TIE,
    Case,
    covering,
    generated,
    opened,
    random_prompts,
    reference,
    text_prompts,
    text_reference,
)
from tiny_models import CONFIGS, saved

from flexplan.errors import PolicyError
from flexplan.policy import CompressionConfig, Policy

SHARED = {
    "cpu_cache_compute": (True,),
    "cache_stream_percent": (25.0, 50.0, 80.0, 100.0),
    "cache": ((0, 100), (50, 50), (30, 40), (7.5, 61), (0, 50)),
}
ON_HOST = Policy(3, 2, cache_gpu_percent=20.0, cache_cpu_percent=80.0, cpu_cache_compute=True)
HALF = replace(ON_HOST, cache_stream_percent=50.0)


@pytest.mark.parametrize("case", covering(32, seed=40, **SHARED), ids=str)
def test_tokens_are_those_of_transformers(case: Case, tiny_opt: Path, tmp_path: Path) -> None:
    expected = text_reference(tiny_opt)
    assert torch.equal(generated(tiny_opt, case, expected.prompts, tmp_path), expected.expected(case))


@pytest.mark.parametrize("family", ["llama", "qwen3", "opt untied"])
def test_tokens_of_a_random_model_differ_only_at_near_ties(family: str, tmp_path: Path) -> None:
    expected = reference(saved(CONFIGS[family], tmp_path / "model"), random_prompts(CONFIGS[family].vocab_size))
    for case in covering(8, seed=41, **SHARED):
        output = generated(tmp_path / "model", case, expected.prompts, tmp_path)
        differing = expected.rows_that_differ(case, output)
        assert all(gap < NEAR_TIE for _, gap in differing), f"{case}: {differing}"


def test_a_packed_cache_is_shared_as_well(tiny_opt: Path, tmp_path: Path) -> None:
    packed = {"compress_cache": True, "comp_cache_config": CompressionConfig(8, 16, 2)}
    prompts = text_prompts(tiny_opt)
    alone, shared = (
        generated(tiny_opt, Case(replace(p, **packed), num_prompts=6), prompts, tmp_path) for p in (ON_HOST, HALF)
    )
    assert torch.equal(alone, shared)


def test_the_shared_half_crosses_the_link_and_the_rest_does_not(tiny_opt: Path, tmp_path: Path) -> None:
    prompts, moved = [row[:1] * 8 for row in text_prompts(tiny_opt)[:6]], {}
    for policy in (ON_HOST, HALF):
        with opened(tiny_opt, policy, tmp_path) as lm:
            lm.complete(prompts, 4)
            moved[policy] = lm.env.ledger.moved["up_bytes", 3]
            segments = [s for row in lm._model.placement.cache for s in row]
    pair = segments[0].pair_bytes
    grains = lm.shape.num_layers * 6 * lm.shape.num_kv_heads * 0.8 / 2
    old, answers = grains * pair * (8 + 2), grains * pair / 2  # those of the host's attention do not come back
    assert moved[HALF] - moved[ON_HOST] == pytest.approx(old - answers, rel=0.05)


def test_sharing_is_refused_where_there_is_nothing_to_share() -> None:
    with pytest.raises(PolicyError, match="cpu_cache_compute off"):
        Policy(cache_stream_percent=50.0)
    with pytest.raises(PolicyError, match=r"attn_sparsity 0\.5"):
        Policy(
            cpu_cache_compute=True,
            cache_gpu_percent=50.0,
            cache_cpu_percent=50.0,
            attn_sparsity=0.5,
            cache_stream_percent=50.0,
        )
