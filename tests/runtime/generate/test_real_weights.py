"""SmolLM2-135M, a real grouped-query Llama: the tokens are transformers' whatever the policy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from policies import NEAR_TIE, Case, Reference, covering, generated, reference, transformers_model
from tokenizers import Tokenizer

from flexplan.testing import policy_with

pytestmark = [pytest.mark.real_weights, pytest.mark.timeout(600)]

TEXTS = (
    "The capital of France is",
    "Water boils at",
    "In 1969, the first human to walk on the Moon was",
    "Once upon a time",
    "def fibonacci(n):",
    "The three primary colours are red,",
    "Photosynthesis is the process by which plants",
)
POLICIES = covering(20, seed=5, gpu_batch_size=(1, 2, 3), num_gpu_batches=(1, 2, 3), gen_len=(3, 2))


@pytest.fixture(scope="module")
def expected(smollm2: Path) -> Reference:
    tokenizer = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    return reference(transformers_model(smollm2), [tokenizer.encode(text).ids for text in TEXTS], gen_len=3)


def test_model_is_sure_of_these_prompts(expected: Reference) -> None:
    assert float(expected.gaps.min()) > NEAR_TIE


@pytest.mark.parametrize("case", POLICIES, ids=str)
def test_tokens_are_those_of_transformers(case: Case, expected: Reference, smollm2: Path, tmp_path: Path) -> None:
    case = Case(case.policy, case.schedule, min(case.num_prompts, len(TEXTS)), case.gen_len)
    assert torch.equal(generated(smollm2, case, expected.prompts, tmp_path), expected.expected(case))


def test_capital_of_france_from_three_tiers(expected: Reference, smollm2: Path, tmp_path: Path) -> None:
    policy = policy_with(2, 2, w=(20.0, 50.0), cache=(20.0, 50.0), act=(20.0, 50.0), cpu_cache_compute=True)
    output = generated(smollm2, Case(policy, num_prompts=4, gen_len=1), expected.prompts, tmp_path)
    tokenizer = Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    assert tokenizer.decode([int(output[0, -1])]) == " Paris"
