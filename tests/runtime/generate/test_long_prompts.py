"""Long prompts go through a layer a few rows at a time: the same tokens, and less workspace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from policies import NEAR_TIE, Case, covering, generated, random_prompts, reference, text_reference
from tiny_models import CONFIGS, saved

from flexplan.model import read_model
from flexplan.placement import rows_at_once, workspace_bytes

WIDE = {"gpu_batch_size": (2, 3, 4), "num_gpu_batches": (1, 2, 3)}


@pytest.fixture(autouse=True)
def few_tokens_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few that the tests' prompts go one or two rows at a time."""
    monkeypatch.setattr("flexplan.placement.workspace.PROMPT_TOKENS", 25)


@pytest.mark.parametrize("case", covering(24, seed=50, **WIDE), ids=str)
def test_tokens_are_those_of_transformers(case: Case, tiny_opt: Path, tmp_path: Path) -> None:
    expected = text_reference(tiny_opt)
    lengths = [len(row) for row in expected.prompts]
    assert rows_at_once(4, max(lengths)) < 4, "all rows at once: nothing is shown"
    assert torch.equal(generated(tiny_opt, case, expected.prompts, tmp_path), expected.expected(case))


@pytest.mark.parametrize("family", ["llama", "qwen3", "mixtral"])
def test_tokens_of_a_random_model_differ_only_at_near_ties(family: str, tmp_path: Path) -> None:
    expected = reference(saved(CONFIGS[family], tmp_path / "model"), random_prompts(CONFIGS[family].vocab_size))
    for case in covering(6, seed=51, **WIDE):
        output = generated(tmp_path / "model", case, expected.prompts, tmp_path)
        differing = expected.rows_that_differ(case, output)
        assert all(gap < NEAR_TIE for _, gap in differing), f"{case}: {differing}"


def test_workspace_does_not_grow_with_a_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexplan.placement.workspace.PROMPT_TOKENS", 8192)
    shape = read_model("facebook/opt-30b")[0]
    few, many = (workspace_bytes(shape, rows, 512, 544) for rows in (16, 128))
    assert few == many
    assert workspace_bytes(shape, 8, 512, 544) == pytest.approx(few / 2, rel=0.01)
