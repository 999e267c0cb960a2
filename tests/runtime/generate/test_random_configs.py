"""A law: whatever stands in a ``config.json``, tokens are those of transformers, or it is refused by name.

``FLEXPLAN_RANDOM_CONFIGS=300 pytest tests/runtime/generate/test_random_configs.py`` tries more than the usual 40.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from alone import SPREAD, by_flexplan, by_transformers
from transformers import AutoConfig, AutoModelForCausalLM

from flexplan.errors import FlexplanError, ModelFilesError, PromptError
from flexplan.model.config import FAMILIES

Config = dict[str, Any]
Draw = Callable[[random.Random], Any]

COUNT = int(os.environ.get("FLEXPLAN_RANDOM_CONFIGS", "40"))
NEW_TOKENS = 6
LENGTHS = (4, 11, 19)
LONGEST = max(LENGTHS) + NEW_TOKENS


def one_of(*values: Any) -> Draw:
    return lambda r: r.choice(values)


def _rope(r: random.Random) -> Config:
    """A table of any kind, in either dialect, with some of its parameters."""
    kind = r.choice(("default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional", "mrope"))
    table: Config = {r.choice(("type", "rope_type")): kind, "factor": r.choice((1.5, 2.0, 4.0))}
    if kind in ("yarn", "longrope", "llama3") and r.random() < 0.8:
        table["original_max_position_embeddings"] = r.choice((8, 12, 16))
    if kind == "llama3":
        table |= {"low_freq_factor": 1.0, "high_freq_factor": r.choice((2.0, 4.0))}
    if kind == "longrope":
        table |= {key: [r.uniform(1, 4) for _ in range(4)] for key in ("short_factor", "long_factor")}
    choices: Config = {
        "attention_factor": r.choice((0.5, 1.5)),
        "beta_fast": r.choice((2, 16.0, 0)),
        "beta_slow": r.choice((0.5, 1, None)),
        "mscale": r.choice((0.7, 3.0)),
        "mscale_all_dim": r.choice((0, 0.5)),
        "truncate": r.random() < 0.5,
        "rope_theta": r.choice((100.0, 1e6)),
        "finetuned": True,
    }
    return table | {key: choices[key] for key in r.sample(sorted(choices), r.randrange(4))}


# keys that some family reads, with values that change tokens where it does
READ: dict[str, Draw] = {
    "num_key_value_heads": one_of(1, 2, 4),
    "head_dim": one_of(8, 8, 16),
    "hidden_act": one_of(
        "silu",
        "swish",
        "gelu",
        "relu",
        "gelu_new",
        "gelu_pytorch_tanh",
        "gelu_python",
        "gelu_fast",
        "gelu_accurate",
        "tanh",
    ),
    "activation_function": one_of("relu", "gelu", "gelu_new", "silu", "mish"),
    "max_position_embeddings": one_of(16, 32, 64),
    "rms_norm_eps": one_of(1e-6, 1e-2, 0.3),
    "rope_theta": one_of(100.0, 10_000.0, 1e6),
    "rope_scaling": lambda r: None if r.random() < 0.2 else _rope(r),
    "rope_parameters": lambda r: None if r.random() < 0.2 else _rope(r),
    "original_max_position_embeddings": one_of(8, 16),
    "partial_rotary_factor": one_of(0.5, 1.0, None),
    "attention_bias": one_of(True, False),
    "mlp_bias": one_of(True, False),
    "tie_word_embeddings": one_of(True, False),
    "sliding_window": one_of(None, 8, LONGEST - 1, 64),
    "use_sliding_window": one_of(True, False),
    "max_window_layers": one_of(0, 1, 2, 28),
    "layer_types": one_of(
        None,
        ["full_attention"] * 2,
        ["full_attention", "sliding_attention"],
        ["attention"] * 2,
        ["chunked_attention"] * 2,
    ),
    "attention_chunk_size": one_of(None, 8, LONGEST - 1, 64),
    "is_causal": one_of(True, False),
    "num_local_experts": one_of(2, 4),
    "num_experts_per_tok": one_of(1, 2),
    "num_experts": one_of(4, 8),
    "do_layer_norm_before": one_of(True, False),
    "_remove_final_layer_norm": one_of(True, False),
    "word_embed_proj_dim": one_of(16, 32, None),
    "enable_bias": one_of(True, False),
    "layer_norm_elementwise_affine": one_of(True, False),
    "torch_dtype": one_of("float32", "float", None),
    "per_layer_config": one_of(None, {"0": {"hidden_act": "relu"}}),
    "is_encoder_decoder": one_of(False, True),
    "text_config": one_of(None, {"dtype": "float16"}),
    "kv_sharing_modes": one_of(None, ["none", "reuse"]),
}
# keys of other families, older and newer versions, and of nobody
IGNORED: dict[str, Draw] = {
    "pretraining_tp": one_of(1, 2),
    "logit_scale": one_of(0.1, 4.0),
    "logits_scaling": one_of(0.1, 4.0),
    "residual_multiplier": one_of(0.2, 3.0),
    "embedding_multiplier": one_of(0.2, 12.0),
    "attention_multiplier": one_of(0.01, 1.0),
    "query_pre_attn_scalar": one_of(3, 256),
    "attn_logit_softcapping": one_of(None, 1.0),
    "final_logit_softcapping": one_of(None, 0.5),
    "layer_norm_eps": one_of(1e-2, 0.5),
    "layer_norm_epsilon": one_of(0.5),
    "attention_dropout": one_of(0.0, 0.5),
    "dropout": one_of(0.5),
    "hidden_dropout": one_of(0.5),
    "layerdrop": one_of(0.5),
    "router_jitter_noise": one_of(0.5),
    "router_aux_loss_coef": one_of(0.5),
    "output_router_logits": one_of(False, True),
    "norm_topk_prob": one_of(False, True),
    "n_shared_experts": one_of(1),
    "first_k_dense_replace": one_of(1),
    "qk_norm": one_of(True),
    "use_qk_norm": one_of(True),
    "clip_qkv": one_of(0.5),
    "alibi": one_of(True),
    "scale_embedding": one_of(True),
    "scale_emb": one_of(12),
    "use_parallel_residual": one_of(True),
    "parallel_attn": one_of(True),
    "qkv_bias": one_of(True),
    "use_bias": one_of(True),
    "bias": one_of(True),
    "rotary_pct": one_of(0.25),
    "rotary_dim": one_of(4),
    "no_rope_layers": one_of([0, 0]),
    "num_kv_shared_layers": one_of(1),
    "max_sequence_length": one_of(8),
    "sliding_window_pattern": one_of(2),
    "interleaved_sliding_window": one_of([8, 8]),
    "cross_attention_hidden_size": one_of(8),
    "add_cross_attention": one_of(True),
    "is_decoder": one_of(True, False),
    "chunk_size_feed_forward": one_of(0, 2),
    "initializer_range": one_of(0.02, 0.5),
    "auto_map": one_of({"AutoModelForCausalLM": "modeling_x.X"}),
    "architectures": one_of(["LlamaForCausalLM"], ["OPTModel"], None),
    "transformers_version": one_of("4.20.0"),
    "num_hidden_groups": one_of(3),
    "moe_intermediate_size": one_of(8),
    "compression_config": one_of({"bits": 4}),
    "time_step_limit": one_of([0.0, float("inf")]),
    "use_cache": one_of(True, False),
    "unheard_of": one_of({"nested": [1, None]}, float("nan")),
}


DYNAMIC = {"type": "dynamic", "factor": 2.0}
# what a directory may ask for is honoured, not refused
HONOURED: tuple[tuple[str, Config], ...] = (
    *((family, {"is_causal": False}) for family in ("opt", "llama", "mistral", "mixtral", "qwen2", "qwen3")),
    ("mistral", {"is_causal": False, "sliding_window": LONGEST - 1}),
    ("mistral", {"sliding_window": LONGEST - 1}),
    ("llama", {"sliding_window": LONGEST - 1}),
    ("llama", {"attention_chunk_size": LONGEST - 1}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 8}),  # from layer 28 on
    ("qwen3", {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["attention"] * 2}),
    ("llama", {"rope_scaling": DYNAMIC, "max_position_embeddings": 16, "use_cache": False}),
    ("llama", {"partial_rotary_factor": 0.5}),
    ("llama", {"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}, "torch_dtype": "float"}),
    ("llama", {"bos_token_id": 50256, "eos_token_id": [2, 50256], "pad_token_id": -1}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu_fast"}),
    ("opt", {"activation_function": "gelu_python", "enable_bias": False}),
    ("mixtral", {"num_experts": 4, "num_local_experts": 8, "num_experts_per_tok": 1}),
    ("qwen2", {"head_dim": 16, "attention_bias": True}),
    ("qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
    ("llama", {"time_step_limit": [0.0, float("inf"), float("nan")]}),
)


def drawn(seed: int) -> Config:
    """A small config of some family with random keys."""
    r = random.Random(seed)
    base = small(r.choice(sorted(FAMILIES)))
    read = {key: READ[key](r) for key in r.sample(sorted(READ), r.randrange(1, 6))}
    return base | read | {key: IGNORED[key](r) for key in r.sample(sorted(IGNORED), r.randrange(1, 8))}


def small(family: str) -> Config:
    """A small config of a family."""
    sizes: Config = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"ffn_dim" if family == "opt" else "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
    base = {"model_type": family, **sizes, "max_position_embeddings": 64, "dtype": "float32"}
    if family == "opt":
        base["word_embed_proj_dim"] = 32
    return base | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def save(config: Config, directory: Path) -> bool:
    """Random weights as transformers wants them for this very config; whether it can make such a model at all."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    try:
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory), dtype=torch.float32)
    except Exception:  # whatever a library makes of nonsense
        return False
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name and "weight" in name else 0.0, std=0.3)
    model.save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps(config))
    return True


def outcome(directory: Path, seed: int, scratch: Path) -> str:
    """What became of it: both computed the same, or who did not compute at all."""
    r = random.Random(seed)
    prompts = [[r.randrange(3, 99) for _ in range(n)] for n in LENGTHS]
    try:
        ours = by_flexplan(directory, prompts, NEW_TOKENS, scratch, SPREAD)
    except FlexplanError as refused:
        assert isinstance(refused, ModelFilesError | PromptError), refused
        assert refused.fix
        return "refused"
    try:
        theirs = by_transformers(directory, prompts, NEW_TOKENS)
    except Exception:  # whatever a library makes of nonsense
        return "transformers computes nothing"
    assert ours == theirs, (directory / "config.json").read_text()
    return "the same"


@pytest.mark.parametrize("part", range(10))
def test_tokens_are_those_of_transformers_or_the_config_is_refused(part: int, tmp_path: Path) -> None:
    found = []
    for seed in range(part, COUNT, 10):
        directory = tmp_path / f"{seed}"
        if save(drawn(seed), directory):
            found.append(outcome(directory, seed, tmp_path))
    assert "the same" in found  # a law about nothing would always hold


@pytest.mark.parametrize(("family", "asked"), HONOURED)
def test_what_a_config_asks_for_is_honoured(family: str, asked: Config, tmp_path: Path) -> None:
    assert save(small(family) | asked, tmp_path / "model")
    assert outcome(tmp_path / "model", 0, tmp_path) == "the same"
