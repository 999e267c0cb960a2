"""Prompts that cannot be run are refused before anything runs, with what was given and what is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flexplan_runtime import OffloadedLM
from policies import opened

from flexplan.errors import PromptError
from flexplan.policy import Policy

CONTEXT, VOCABULARY = 512, 2048


@pytest.fixture
def lm(tiny_opt: Path, tmp_path: Path) -> Iterator[OffloadedLM]:
    with opened(tiny_opt, Policy(2, 2), tmp_path) as model:
        yield model


@pytest.mark.parametrize("nothing", [[], torch.empty(0, 5, dtype=torch.long)], ids=["list", "tensor"])
def test_no_prompts_give_an_empty_result(nothing: Any, lm: OffloadedLM) -> None:
    assert lm.generate(nothing).shape[0] == 0
    assert lm.complete(nothing if isinstance(nothing, list) else []).tokens == []


BAD = {
    "empty": ([[5], []], {}, ("prompt 1", "no tokens")),
    "mask hides all": (torch.tensor([[5, 6]]), {"attention_mask": torch.tensor([[0, 0]])}, ("prompt 0", "no tokens")),
    "too long": ([[5], [7] * 510], {"max_new_tokens": 4}, ("prompt 1", "510", "514", "512")),
    "too many tokens asked for": ([[5]], {"max_new_tokens": 513}, ("514", "512")),
    "id past the vocabulary": ([[5, VOCABULARY]], {}, ("prompt 0", "2048")),
    "negative id": ([[-1, 5]], {}, ("prompt 0", "-1", "2048")),
    "no new tokens": ([[5]], {"max_new_tokens": 0}, ("max_new_tokens 0", "1")),
    "mask of another shape": (torch.tensor([[5, 6]]), {"attention_mask": torch.tensor([[1]])}, ("(1, 1)", "(1, 2)")),
    "stop is text": ([[5]], {"stop": "</s>"}, ("</s>",)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_prompts_are_refused_with_both_numbers(name: str, lm: OffloadedLM) -> None:
    prompts, options, words = BAD[name]
    held = dict(lm.env.ledger.held)
    with pytest.raises(PromptError) as refusal:
        lm.generate(prompts, **options)
    assert refusal.value.exit_code == 2
    assert refusal.value.code.startswith("FP3")
    assert refusal.value.fix
    for word in words:
        assert word in refusal.value.message
    assert lm.env.ledger.held == held
    assert lm.timeline.num_tasks == 0


def test_a_prompt_that_just_fits_runs(lm: OffloadedLM) -> None:
    output = lm.generate([[7] * (CONTEXT - 2), [VOCABULARY - 1], [0]], max_new_tokens=2)
    assert output.shape == (3, CONTEXT)
