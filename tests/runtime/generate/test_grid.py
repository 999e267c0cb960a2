"""Right: whatever the policy, the tokens are transformers'."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from policies import (
    CORNERS,
    FACTORS,
    NEAR_TIE,
    Case,
    Reference,
    covering,
    covering_values,
    generated,
    pairs_of,
    random_prompts,
    reference,
    text_prompts,
    text_reference,
)
from tiny_models import CONFIGS, saved
from transformers import PreTrainedModel

from flexplan.policy import Policy
from flexplan.testing import policy_with

TINY_OPT_POLICIES = 216
FAMILIES = {
    "llama": 44,
    "qwen3": 44,
    "mistral": 44,
    "opt post-norm, projected": 28,  # OPT-350M
    "qwen2": 16,
    "galactica": 16,
    "mixtral": 16,
    "llama3 rope": 10,
    "opt untied": 16,
}
HOST_ATTENTION = Case(
    Policy(2, 4, cache_gpu_percent=0.0, cache_cpu_percent=100.0, cpu_cache_compute=True), num_prompts=8
)
NO_OVERLAP_DISK = Case(Policy(2, 2, w_gpu_percent=0.0, w_cpu_percent=0.0, overlap=False), num_prompts=4)
DOCUMENTED = {  # the three policies that the reference system's documentation shows
    "all on the gpu": Case(Policy(4, 1, overlap=False, sep_layer=False, pin_weight=False)),
    "half on disk": Case(
        policy_with(
            2, 4, w=(0.0, 50.0), cache=(0.0, 50.0), act=(0.0, 100.0), overlap=True, sep_layer=False, pin_weight=True
        ),
    ),
    "three tiers": Case(
        policy_with(
            2, 1, w=(50.0, 30.0), cache=(50.0, 30.0), act=(100.0, 0.0), overlap=True, sep_layer=True, pin_weight=True
        ),
        num_prompts=5,
    ),
}


# -- the selection -------------------------------------------------------------------------------------------------
def test_selection_shows_every_pair_of_values_and_every_corner() -> None:
    values = covering_values(TINY_OPT_POLICIES)
    seen = set().union(*map(pairs_of, values))
    names = sorted(FACTORS)
    for n, one in enumerate(names):
        for other in names[n + 1 :]:
            wanted = set(product([(one, v) for v in FACTORS[one]], [(other, v) for v in FACTORS[other]]))
            assert wanted <= seen, (one, other)
    corners = {(v["w"], v["cache"], v["act"]) for v in values}
    assert set(product(CORNERS, repeat=3)) <= corners
    assert len({str(case) for case in covering(TINY_OPT_POLICIES)}) >= 200


# -- the trained model: always exactly -------------------------------------------------------------------------------
def test_embedded_model_is_sure_of_these_prompts(tiny_opt: Path) -> None:
    assert float(text_reference(tiny_opt).gaps.min()) > NEAR_TIE
    prompts = text_prompts(tiny_opt)
    assert len({tuple(row) for row in prompts}) == len(prompts)
    assert len(set(map(len, prompts))) > 4


@pytest.mark.parametrize("case", covering(TINY_OPT_POLICIES), ids=str)
def test_tokens_are_those_of_transformers(case: Case, tiny_opt: Path, tmp_path: Path) -> None:
    expected = text_reference(tiny_opt)
    output = generated(tiny_opt, case, expected.prompts, tmp_path)
    assert torch.equal(output, expected.expected(case))


def test_every_micro_batch_attends_to_its_own_keys_on_the_host(tiny_opt: Path, tmp_path: Path) -> None:
    """The reference system computes every micro-batch but the last on another one's keys and values."""
    expected = text_reference(tiny_opt)
    output = generated(tiny_opt, HOST_ATTENTION, expected.prompts, tmp_path)
    assert torch.equal(output, expected.expected(HOST_ATTENTION))


def test_without_overlap_weights_have_arrived_from_disk_before_they_are_read(tiny_opt: Path, tmp_path: Path) -> None:
    """The reference system's loop without overlap computes with what was in the buffer before."""
    expected = text_reference(tiny_opt)
    output = generated(tiny_opt, NO_OVERLAP_DISK, expected.prompts, tmp_path)
    assert torch.equal(output, expected.expected(NO_OVERLAP_DISK))


@pytest.mark.parametrize("name", DOCUMENTED)
def test_documented_policy_of_the_reference_runs_as_written(name: str, tiny_opt: Path, tmp_path: Path) -> None:
    case, expected = DOCUMENTED[name], text_reference(tiny_opt)
    output = generated(tiny_opt, case, expected.prompts, tmp_path)
    assert torch.equal(output, expected.expected(case))


# -- random weights: exactly, but for near ties ------------------------------------------------------------------------
def share_that_reads_its_context(model: PreTrainedModel, expected: Reference) -> float:
    """Tokens that change when all of the prompt but its last token does; a model that echoes would prove little."""
    long = [n for n, row in enumerate(expected.prompts) if len(row) > 1]
    others = [[(token + 7) % 99 for token in row[:-1]] + row[-1:] for row in expected.prompts]
    return float((reference(model, others).tokens != expected.tokens)[long].float().mean())


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_of_a_random_model_differ_only_at_near_ties(family: str, tmp_path: Path) -> None:
    model = saved(CONFIGS[family], tmp_path / "model")
    expected = reference(model, random_prompts(CONFIGS[family].vocab_size))
    assert share_that_reads_its_context(model, expected) > 0.4
    rows, ties = 0, 0
    for case in covering(FAMILIES[family], seed=1 + list(FAMILIES).index(family)):
        output = generated(tmp_path / "model", case, expected.prompts, tmp_path)
        differing = expected.rows_that_differ(case, output)
        assert all(gap < NEAR_TIE for _, gap in differing), f"{case}: {differing}"
        rows, ties = rows + case.num_prompts, ties + len(differing)
    assert ties <= rows / 100
