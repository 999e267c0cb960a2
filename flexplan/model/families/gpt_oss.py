"""The ``config.json`` of gpt-oss: sinks, windows in every other layer, experts with biases and a gate that ends."""

from __future__ import annotations

from flexplan.model.constants import ModelConstants
from flexplan.model.families.keys.fields import MOST_LAYERS, Fields
from flexplan.model.families.keys.rotary import DEFAULTS, read_rotary
from flexplan.model.shape import ModelShape

GPT_OSS = DEFAULTS | {
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150_000.0,
    "rope_parameters": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
    "attention_bias": True,
    "sliding_window": 128,
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
    "swiglu_alpha": 1.702,
    "swiglu_limit": 7.0,
}


def read_gpt_oss(f: Fields, name: str) -> tuple[ModelShape, ModelConstants]:
    """``intermediate_size`` is an expert's; what they count for is a softmax over the chosen, which is the same."""
    experts = f.count("num_local_experts", MOST_LAYERS)
    shape = {
        "sinks": True,
        "num_experts": experts,
        "experts_per_token": f.count("num_experts_per_tok", experts),
        "expert_bias": True,
    }
    math = {
        "norm_in_float": True,
        "swiglu_alpha": f.number("swiglu_alpha"),
        "swiglu_limit": f.number("swiglu_limit"),
    }
    return read_rotary(f, name, windows=f.windows(slides=True, pattern=2), shape=shape, math=math)
