"""Random tiny models of every family with random generation configs: what the property test draws from.

A strategy is a function of a ``random.Random``; one more key is one more line.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
from tiny_models import LLAMA3, OPT, ROTARY
from torch import Tensor
from transformers import (
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

Draw = Callable[[random.Random], Any]
VOCAB = OPT["vocab_size"]


def one_of(*values: Any) -> Draw:
    return lambda draw: draw.choice(values)


def token(draw: random.Random) -> int:
    return draw.randrange(VOCAB)


def tokens(most: int) -> Draw:
    return lambda draw: [token(draw) for _ in range(draw.randint(1, most))]


def lists(of: Draw, most: int) -> Draw:
    return lambda draw: [of(draw) for _ in range(draw.randint(1, most))]


# -- models: the keys of config.json that change the mathematics, by family ----------------------------------------
ROPE = (
    {"rope_type": "default", "rope_theta": 500.0},
    {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
    {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0},
    {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 10},
    LLAMA3,
)
KEYS: Mapping[str, Draw] = {
    "rope_parameters": one_of(*ROPE),
    "hidden_act": one_of("silu", "gelu", "relu"),
    "rms_norm_eps": one_of(1e-6, 1e-3),
    "tie_word_embeddings": one_of(True, False),
    "num_key_value_heads": one_of(1, 2, 4),
}
FAMILIES: Mapping[str, tuple[type[PreTrainedConfig], Mapping[str, Any], Mapping[str, Draw]]] = {
    "opt": (
        OPTConfig,
        OPT,
        {
            "activation_function": one_of("relu", "gelu"),
            "tie_word_embeddings": one_of(True, False),
            "enable_bias": one_of(True, False),
            "do_layer_norm_before": one_of(True, True, False),
            "word_embed_proj_dim": one_of(32, 16),
        },
    ),
    "llama": (LlamaConfig, ROTARY, KEYS | {"attention_bias": one_of(True, False), "mlp_bias": one_of(True, False)}),
    "mistral": (MistralConfig, ROTARY | {"sliding_window": None, "head_dim": 8}, KEYS | {"head_dim": one_of(8, 16)}),
    "mixtral": (
        MixtralConfig,
        ROTARY | {"num_local_experts": 4, "head_dim": 8},
        KEYS | {"num_experts_per_tok": one_of(1, 2)},
    ),
    "qwen2": (Qwen2Config, ROTARY, KEYS),
    "qwen3": (Qwen3Config, ROTARY, KEYS | {"head_dim": one_of(8, 16), "attention_bias": one_of(True, False)}),
}

# -- generation_config.json ----------------------------------------------------------------------------------------
GENERATION: Mapping[str, Draw] = {
    "eos_token_id": one_of(2, [2, 50], [60, 500], 98, None),
    "pad_token_id": one_of(1, 0, 2, 500, None),
    "bos_token_id": one_of(0, 500),
    "repetition_penalty": lambda draw: round(draw.uniform(0.5, 2.0), 2),
    "no_repeat_ngram_size": one_of(0, 1, 2, 3, 4),
    "min_length": one_of(0, 5, 9, 15),
    "min_new_tokens": one_of(0, 3, 8),
    "bad_words_ids": lists(tokens(3), 8),
    "sequence_bias": lists(lambda draw: [tokens(2)(draw), draw.uniform(-9, 9)], 5),
    "suppress_tokens": tokens(50),
    "begin_suppress_tokens": tokens(50),
    "forced_eos_token_id": one_of(2, [2, 3], 500),
    "forced_bos_token_id": token,
    "exponential_decay_length_penalty": lambda draw: [draw.randint(0, 9), round(draw.uniform(1.0, 2.0), 2)],
    "remove_invalid_values": one_of(True, False),
    "temperature": one_of(0.6, 1.0),
    "top_p": one_of(0.8, 1.0),
    "top_k": one_of(1, 20, 50),
    "do_sample": one_of(True, False, False, False),
    "num_beams": one_of(1, 1, 1, 3),
    "length_penalty": one_of(1.0, 2.0),
    "renormalize_logits": one_of(True, False),
    "guidance_scale": one_of(1.0, 1.0, 1.5),
    "use_cache": one_of(True, False),
    "max_length": one_of(20, 4096),
    "chat_format": one_of("chatml"),
}


def random_model(draw: random.Random) -> tuple[PreTrainedConfig, Tensor]:
    """A configuration, and prompts of one or several rows, some of them with what may be padding on the left."""
    make, sizes, keys = FAMILIES[draw.choice(sorted(FAMILIES))]
    config = make(**sizes | {key: keys[key](draw) for key in draw.sample(sorted(keys), draw.randint(0, len(keys)))})
    rows, length = draw.randint(1, 4), draw.randint(1, 9)
    ids = [[token(draw) for _ in range(length)] for _ in range(rows)]
    pad = draw.choice((0, 1))
    return config, torch.tensor([[pad] * pads + row[pads:] for row in ids for pads in [draw.randrange(length)]])


def random_generation(draw: random.Random, vocab_size: int) -> dict[str, Any]:
    """A generation config of up to eight keys."""
    assert vocab_size == VOCAB
    return {key: GENERATION[key](draw) for key in draw.sample(sorted(GENERATION), draw.randint(0, 8))}
