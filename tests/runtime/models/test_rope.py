"""Rotary positions stretched to a longer context turn as they do in transformers, at every length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from alone import by_flexplan, by_transformers
from flexplan_runtime.models.rope import Rotary
from tiny_models import ROTARY, saved
from transformers import AutoConfig, LlamaConfig, MistralConfig, MixtralConfig, Qwen2Config, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from flexplan.model import read_config
from flexplan.policy import Policy

SIZES = ROTARY | {"max_position_embeddings": 16, "num_key_value_heads": 2}
SHORT, LONG = [1.0, 1.1, 1.3, 1.7], [1.0, 2.5, 5.0, 9.0]
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LONGROPE = {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG}
WIDE = {"max_position_embeddings": 64}
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 4.0}},
    "dynamic as transformers 5 writes it": {
        "rope_parameters": {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 100.0}
    },
    "yarn": {"rope_scaling": YARN},
    "yarn from a base": {"rope_scaling": YARN, "rope_theta": 500.0},
    "yarn without a context of its own": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    "yarn with no factor": {"rope_scaling": YARN | {"factor": None}, **WIDE},
    "yarn, context beside the table": {"rope_scaling": YARN, "original_max_position_embeddings": 24},
    "yarn, ramp": {"rope_scaling": YARN | {"beta_fast": 4, "beta_slow": 0.5}},
    "yarn, ramp upside down": {"rope_scaling": YARN | {"beta_fast": 0.25, "beta_slow": 2.0}},
    "yarn, ramp of nothing": {"rope_scaling": YARN | {"beta_fast": 0, "beta_slow": None}},
    "yarn, ramp not truncated": {"rope_scaling": YARN | {"truncate": False, "beta_fast": 2.0}},
    "yarn, attention factor": {"rope_scaling": YARN | {"attention_factor": 1.7}},
    "yarn, mscale": {"rope_scaling": YARN | {"mscale": 4.0, "mscale_all_dim": 0.5}},
    "yarn, mscale alone": {"rope_scaling": YARN | {"mscale": 4.0}},
    "yarn, mscale of 0": {"rope_scaling": YARN | {"mscale": 4.0, "mscale_all_dim": 0}},
    "yarn, factor below 1": {"rope_scaling": YARN | {"factor": 0.5}, **WIDE},
    "longrope": {"rope_scaling": LONGROPE | {"original_max_position_embeddings": 16}, **WIDE},
    "longrope, context beside the table": {
        "rope_scaling": LONGROPE,
        "original_max_position_embeddings": 16,
        **WIDE,
    },
    "longrope, factor": {
        "rope_scaling": LONGROPE | {"original_max_position_embeddings": 16, "factor": 32.0},
        **WIDE,
    },
    "longrope, attention factor": {
        "rope_scaling": LONGROPE | {"original_max_position_embeddings": 16, "attention_factor": 1.5},
        **WIDE,
    },
    "llama3": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
        "rope_theta": 500.0,
        **WIDE,
    },
}
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4, head_dim=8),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
}
# below the original context, over its edge while generating, and beyond it: in blocks of several micro-batches
PROMPTS = [[(7 * n * n + 13 * k) % 95 + 3 for k in range(n)] for n in (3, 12, 16, 17, 30)]
NEW = 8


def written(family: str, scaling: dict[str, Any], directory: Path) -> Path:
    """A model of a family whose ``config.json`` asks for a scaling, as a person would write it."""
    saved(FAMILIES[family], directory)
    config = json.loads((directory / "config.json").read_text())
    config.pop("rope_parameters", None)
    (directory / "config.json").write_text(json.dumps({"rope_theta": 10_000.0} | config | scaling))
    return directory


@pytest.mark.parametrize("name", SCALINGS)
def test_tokens_are_those_of_transformers_for_each_request_alone(name: str, tmp_path: Path) -> None:
    model = written("llama", SCALINGS[name], tmp_path / "model")
    assert by_flexplan(model, PROMPTS, NEW, tmp_path) == by_transformers(model, PROMPTS, NEW)


@pytest.mark.parametrize("name", ["dynamic", "yarn", "longrope"])
@pytest.mark.parametrize("family", ["mistral", "mixtral", "qwen2", "qwen3"])
def test_every_family_stretches(family: str, name: str, tmp_path: Path) -> None:
    model = written(family, SCALINGS[name], tmp_path / "model")
    assert by_flexplan(model, PROMPTS[1:4], NEW, tmp_path) == by_transformers(model, PROMPTS[1:4], NEW)


def test_attention_on_the_host_reads_keys_as_they_were_turned(tmp_path: Path) -> None:
    model = written("llama", SCALINGS["dynamic"], tmp_path / "model")
    policy = Policy(2, 2, cache_gpu_percent=0.0, cpu_cache_compute=True)
    assert by_flexplan(model, PROMPTS, NEW, tmp_path, policy) == by_transformers(model, PROMPTS, NEW)


@pytest.mark.parametrize("name", SCALINGS)
def test_each_scaling_is_one_that_turns_otherwise(name: str) -> None:
    """Else the other tests would say nothing."""
    base = FAMILIES["llama"].to_dict() | {"rope_parameters": None, "rope_theta": 10_000.0}
    positions = torch.arange(60)[None]
    plain, stretched = (
        Rotary(read_config(base | s)[1], 8).turns(positions, torch.float32) for s in ({}, SCALINGS[name])
    )
    assert (plain[0] - stretched[0]).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SCALINGS)
def test_angles_are_those_of_transformers(name: str, dtype: Any, tmp_path: Path) -> None:
    """To the last bits: a prompt's by its length, and a new position's by its own."""
    (tmp_path / "config.json").write_text(
        json.dumps(FAMILIES["llama"].to_dict() | {"rope_parameters": None} | SCALINGS[name])
    )
    config, (shape, math) = AutoConfig.from_pretrained(tmp_path), read_config(tmp_path)
    ours = Rotary(math, shape.head_dim)
    for positions in (torch.arange(7), torch.arange(60), torch.tensor([15]), torch.tensor([16]), torch.tensor([63])):
        theirs = LlamaRotaryEmbedding(config)(torch.zeros(1, dtype=dtype), positions[None])
        for found, expected in zip(ours.turns(positions[None], dtype), theirs, strict=True):
            torch.testing.assert_close(found[:, :, 0], expected, rtol=0, atol=4e-6 if dtype == torch.float32 else 8e-3)
