"""4 and 8 bits: whatever the placement, the tokens are those of transformers with the same quantised numbers."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from policies import (
    NEAR_TIE,
    Case,
    covering,
    generated,
    opened,
    random_prompts,
    text_prompts,
)
from rounded import packed_reference
from tiny_models import CONFIGS, saved

from flexplan.policy import CompressionConfig, Policy
from flexplan.testing import policy_with

DOWN, ALONG = 0, 1
WEIGHTS = (
    CompressionConfig(4, 64, DOWN),
    CompressionConfig(8, 16, DOWN),
    CompressionConfig(4, 16, ALONG),
    CompressionConfig(4, 8, DOWN, symmetric=True),
    CompressionConfig(8, 32, ALONG, symmetric=True),
)
CACHES = (
    CompressionConfig(4, 64, 2),
    CompressionConfig(8, 8, 2),
    CompressionConfig(4, 4, 2),
    CompressionConfig(8, 64, 2, symmetric=True),
)
DOCUMENTED = policy_with(
    2,
    4,
    w=(0.0, 50.0),
    cache=(0.0, 50.0),
    act=(0.0, 100.0),
    overlap=True,
    sep_layer=True,
    pin_weight=True,
    compress_weight=True,
    comp_weight_config=CompressionConfig(4, 64, 0, symmetric=False),
    compress_cache=True,
    comp_cache_config=CompressionConfig(4, 64, 2, symmetric=False),
)


# -- the selection ---------------------------------------------------------------------------------------------------
def packed_cases(count: int, seed: int = 0) -> list[tuple[Policy, list[Case]]]:
    """Cases by what is packed and how: weights, cache, both in turn."""
    kinds: list[Policy] = []
    for n, (weights, cache) in enumerate(zip(cycle(WEIGHTS), cycle(CACHES), strict=False)):
        if n == len(WEIGHTS) * len(CACHES):
            break
        what = n % 3
        kinds.append(
            Policy(
                compress_weight=what != 1,
                comp_weight_config=weights,
                compress_cache=what != 0,
                comp_cache_config=cache,
            )
        )
    groups: list[tuple[Policy, list[Case]]] = [(kind, []) for kind in kinds]
    for case, (kind, cases) in zip(covering(count, seed=seed), cycle(groups), strict=False):
        fields = ("compress_weight", "comp_weight_config", "compress_cache", "comp_cache_config")
        policy = replace(case.policy, **{name: getattr(kind, name) for name in fields})
        cases.append(replace(case, policy=policy))
    return [group for group in groups if group[1]]


def refuted(directory: Path, prompts: list[list[int]], groups: list[tuple[Policy, list[Case]]], tmp_path: Path) -> Any:
    """(rows in all, rows that differ at a near tie); anything else that differs fails."""
    rows = ties = 0
    for kind, cases in groups:
        expected = packed_reference(directory, prompts, kind)
        for case in cases:
            output = generated(directory, case, prompts, tmp_path)
            differing = expected.rows_that_differ(case, output)
            assert all(gap < NEAR_TIE for _, gap in differing), f"{case}: {kind}: {differing}"
            rows, ties = rows + case.num_prompts, ties + len(differing)
    return rows, ties


# -- right -------------------------------------------------------------------------------------------------------------
def test_tokens_of_the_trained_model(tiny_opt: Path, tmp_path: Path) -> None:
    rows, ties = refuted(tiny_opt, text_prompts(tiny_opt), packed_cases(60), tmp_path)
    assert ties <= rows / 100


@pytest.mark.parametrize("family", ["llama", "qwen3", "opt post-norm, projected", "mixtral"])
def test_tokens_of_a_random_model(family: str, tmp_path: Path) -> None:
    saved(CONFIGS[family], tmp_path / "model")
    prompts = random_prompts(CONFIGS[family].vocab_size)
    rows, ties = refuted(tmp_path / "model", prompts, packed_cases(20, seed=len(family)), tmp_path)
    assert ties <= rows / 100


def test_documented_policy_of_the_reference_runs_as_written(tiny_opt: Path, tmp_path: Path) -> None:
    prompts = text_prompts(tiny_opt)[:8]
    expected, case = packed_reference(tiny_opt, prompts, DOCUMENTED), Case(DOCUMENTED, num_prompts=8)
    assert all(
        gap < NEAR_TIE for _, gap in expected.rows_that_differ(case, generated(tiny_opt, case, prompts, tmp_path))
    )


# -- small -------------------------------------------------------------------------------------------------------------
def test_packed_bytes_move_and_are_opened_once_a_pass(tiny_opt: Path, tmp_path: Path) -> None:
    plain = policy_with(2, 4, w=(0.0, 100.0), cache=(0.0, 100.0), act=(100.0, 0.0))
    moved, opens = [], []
    for policy in (plain, replace(plain, compress_weight=True, compress_cache=True)):
        with opened(tiny_opt, policy, tmp_path) as lm:
            lm.generate(text_prompts(tiny_opt)[:8], max_new_tokens=4, trace=True)
            moved.append(lm.env.ledger.moved["up_bytes", 2])
            opens.append([span for span in lm.timeline.spans if span.name.startswith("unpack_weight")])
            num_layers = len(lm.layers) - 2
    assert moved[1] < moved[0] / 2.4  # the head stays in float32
    assert not opens[0]
    assert len(opens[1]) == 4 * num_layers
