"""Sampling: the probs are transformers', and a seed fixes the text whatever the placement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from flexplan_runtime.execute import Sampling
from policies import opened, text_prompts
from torch import Tensor

from flexplan.errors import UsageError
from flexplan.policy import Policy
from flexplan.testing import policy_with

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "hot": {"temperature": 1.7},
    "cold": {"temperature": 0.3},
    "top-k": {"top_k": 5},
    "top-k of more than there are": {"top_k": 10_000},
    "one left": {"top_k": 1},
    "top-p": {"top_p": 0.8},
    "narrow top-p": {"top_p": 0.01},
    "all of top-p": {"top_p": 1.0},
    "min-p": {"min_p": 0.1},
    "typical": {"typical_p": 0.7},
    "a fixed cutoff": {"epsilon_cutoff": 0.02},
    "a cutoff by entropy": {"eta_cutoff": 0.05},
    "every one": {"temperature": 0.8, "top_k": 30, "min_p": 0.02, "typical_p": 0.9, "epsilon_cutoff": 0.003},
    "all three": {"temperature": 0.7, "top_k": 20, "top_p": 0.9},
}
PLACEMENTS = {
    "all on the gpu": (Policy(4, 1), "zigzag"),
    "three tiers": (policy_with(2, 3, w=(30.0, 40.0), cache=(30.0, 40.0), act=(30.0, 40.0)), "zigzag"),
    "attention on the host": (policy_with(3, 2, w=(50.0, 20.0), cache=(0.0, 50.0), cpu_cache_compute=True), "zigzag"),
    "one row at a time": (Policy(1, 1, overlap=False, sep_layer=False), "zigzag"),
    "row by row": (policy_with(2, 2, w=(0.0, 0.0)), "rowwise"),
}


def probs_of(sampling: Sampling, logits: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The probabilities that the draw is given."""
    seen: list[Tensor] = []
    draw = torch.multinomial

    def spy(probs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(probs)
        return draw(probs, *args, **kwargs)

    monkeypatch.setattr(torch, "multinomial", spy)
    sampling.choose(logits, range(len(logits)), 0)
    return torch.stack(seen)


def transformers_probs(logits: Tensor, setting: dict[str, Any]) -> Tensor:
    """In the order in which its generate builds them."""
    from transformers.generation import logits_process as made

    makers = {
        "temperature": made.TemperatureLogitsWarper,
        "top_k": made.TopKLogitsWarper,
        "top_p": made.TopPLogitsWarper,
        "min_p": made.MinPLogitsWarper,
        "typical_p": made.TypicalLogitsWarper,
        "epsilon_cutoff": made.EpsilonLogitsWarper,
        "eta_cutoff": made.EtaLogitsWarper,
    }
    processors = made.LogitsProcessorList([make(setting[key]) for key, make in makers.items() if key in setting])
    return torch.softmax(processors(torch.zeros(len(logits), 1, dtype=torch.long), logits), -1)


@pytest.mark.parametrize("name", SETTINGS)
def test_probs_are_those_of_transformers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(16, 200, generator=torch.Generator().manual_seed(1)) * 3
    expected = transformers_probs(logits, SETTINGS[name])
    found = probs_of(Sampling(True, **SETTINGS[name]), logits, monkeypatch)
    assert torch.equal(found > 0, expected > 0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("temperature", [1e-40, 1e-300, 5e-324])
def test_next_to_no_temperature_is_greedy(temperature: float) -> None:
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(2))
    for setting in ({}, {"top_p": 0.9, "top_k": 3}, {"typical_p": 0.9, "eta_cutoff": 0.1, "min_p": 0.1}):
        drawn = Sampling(True, temperature, **setting).choose(logits, range(5), 0)
        assert torch.equal(drawn, logits.argmax(-1))


def test_draws_follow_the_probs() -> None:
    logits, rows = torch.tensor([[2.0, 1.0, 0.0, -1.0]]), 4000
    drawn = Sampling(True, top_k=3, seed=3).choose(logits.expand(rows, 4), range(rows), 5)
    found = torch.bincount(drawn, minlength=4) / rows
    expected = torch.softmax(torch.tensor([2.0, 1.0, 0.0, -torch.inf]), 0)
    assert (found - expected).abs().max() < 4 * 0.5 / rows**0.5  # four standard deviations


def test_rows_steps_and_seeds_draw_for_themselves() -> None:
    flat = torch.zeros(64, 1000)

    def draw(seed: int, step: int, rows: Any = range(64)) -> list[int]:
        return Sampling(True, seed=seed).choose(flat[: len(rows)], rows, step).tolist()

    assert len(set(draw(0, 0))) > 50
    assert draw(0, 0) == draw(0, 0)
    assert draw(0, 0) != draw(0, 1) != draw(1, 1) != draw(1, 0)
    assert draw(0, 0)[10:20] == draw(0, 0, range(10, 20))  # whoever else is in the batch


@pytest.mark.parametrize("name", PLACEMENTS)
def test_a_seed_fixes_the_text_whatever_the_placement(name: str, tiny_opt: Path, tmp_path: Path) -> None:
    """The probs of a row differ by rounding only; a draw would have to fall within it."""
    prompts, options = text_prompts(tiny_opt, 7), {"do_sample": True, "temperature": 1.2, "top_k": 50, "seed": 11}
    policy, schedule = PLACEMENTS[name]
    with opened(tiny_opt, Policy(7, 1), tmp_path) as lm:
        expected = lm.generate(prompts, max_new_tokens=5, **options)
        other_seed = lm.generate(prompts, max_new_tokens=5, **options | {"seed": 12})
        greedy = lm.generate(prompts, max_new_tokens=5)
    with opened(tiny_opt, policy, tmp_path, schedule=schedule) as lm:
        assert torch.equal(lm.generate(prompts, max_new_tokens=5, **options), expected)
    assert not torch.equal(expected, greedy)
    assert not torch.equal(expected, other_seed)


def test_sampled_rows_stop_too(tiny_opt: Path, tmp_path: Path) -> None:
    prompts, options = text_prompts(tiny_opt, 5), {"do_sample": True, "seed": 4, "pad_token_id": 1}
    with opened(tiny_opt, policy_with(2, 2, w=(30.0, 40.0), cache=(30.0, 40.0)), tmp_path) as lm:
        free = lm.generate(prompts, max_new_tokens=6, **options)
        stop = int(free[1, -5])
        stopped = lm.generate(prompts, max_new_tokens=6, stop=stop, **options)
    longest = max(map(len, prompts))
    for row in range(5):
        tokens = free[row, longest:].tolist()
        kept = tokens[: tokens.index(stop) + 1] if stop in tokens else tokens
        padding = stopped.shape[1] - longest - len(kept)
        assert stopped[row, longest:].tolist() == kept + [1] * padding


BAD: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 0.0}, "temperature"),
    ({"temperature": -1.0}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": float("inf")}, "temperature"),
    ({"top_k": 0}, "top_k"),
    ({"top_k": -3}, "top_k"),
    ({"top_p": 0.0}, "top_p"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_p": float("nan")}, "top_p"),
]


@pytest.mark.parametrize(("setting", "named"), BAD, ids=str)
def test_bad_settings_are_refused_by_name(setting: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named) as refusal:
        Sampling(True, **setting)
    assert refusal.value.exit_code == 2
    assert refusal.value.fix
