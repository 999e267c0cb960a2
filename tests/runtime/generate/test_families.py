"""Every family over a few policies: greedy tokens are transformers', whatever a layer is made of."""

from __future__ import annotations

from pathlib import Path

import pytest
from policies import NEAR_TIE, Case, generated, random_prompts, reference
from tiny_models import CONFIGS, saved

from flexplan.policy import Policy
from flexplan.testing import policy_with

# what test_grid.py does not have over its hundreds of policies
FAMILIES = [
    "mistral with windows",
    "gemma",
    "gemma2",
    "gemma3",
    "granite",
    "olmo2",
    "phi3",
    "phi4, longrope",
]
CASES = [
    Case(Policy(4, 2, sep_layer=False), num_prompts=9, gen_len=6),
    Case(
        Policy(2, 3, 0, 0, 0, 100, 0, 100, cpu_cache_compute=True, sep_layer=False), "rowwise", num_prompts=7, gen_len=6
    ),
    Case(policy_with(3, 2, w=(30.0, 40.0), cache=(30.0, 40.0), act=(30.0, 40.0), sep_layer=True), gen_len=6),
    Case(
        policy_with(2, 2, w=(0.0, 100.0), cache=(30.0, 30.0), act=(0.0, 0.0), sep_layer=False, cpu_cache_compute=True),
        num_prompts=5,
        gen_len=6,
    ),
]


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_are_those_of_transformers_but_at_near_ties(name: str, tmp_path: Path) -> None:
    model = saved(CONFIGS[name], tmp_path / "model")
    expected = reference(model, random_prompts(CONFIGS[name].vocab_size), gen_len=6)
    for case in CASES:
        output = generated(tmp_path / "model", case, expected.prompts, tmp_path)
        differing = expected.rows_that_differ(case, output)
        assert all(gap < NEAR_TIE for _, gap in differing), f"{case}: {differing}"
        assert len(differing) <= 1, case
