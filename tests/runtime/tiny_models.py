"""Random tiny models of every family: transformers' own, saved as checkpoints, and our layer maths over them.

Tensor shapes: B rows, S positions, N query heads, K kv heads, H head_dim, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flexplan_runtime.attention import prompt_attention, prompt_mask, scored_prompt_attention
from flexplan_runtime.models import Family, family
from flexplan_runtime.models.base import Pieces
from flexplan_runtime.weights.checkpoint import WeightReader, open_checkpoint
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    DeepseekV2Config,
    DeepseekV3Config,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4MoeConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    Starcoder2Config,
)
from transformers.models.gpt_oss import modeling_gpt_oss

from flexplan.model import TOKENS, ModelShape, read_config, weight_tensors

Cut = Callable[[int], list[int]]
"""Rows of a tensor -> rows of its pieces."""

# older versions of transformers compute with the published limit whatever a config says
SWIGLU_LIMIT = 1.5 if "config.swiglu_limit" in inspect.getsource(modeling_gpt_oss) else 7.0

OPT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "ffn_dim": 64,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "word_embed_proj_dim": 32,
}
ROTARY = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 40,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,  # so that the tiny heads have long, short and in-between waves
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 20, "sliding_window": 5}
NEOX = {k: v for k, v in ROTARY.items() if k != "num_key_value_heads"} | {
    "rope_parameters": {"rope_theta": 500.0, "partial_rotary_factor": 0.5}
}
GPT_2 = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}
FALCON = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 4.0,
    "original_max_position_embeddings": 10,
    "mscale": 0.7,
    "mscale_all_dim": 1.1,
}
EXPERTS = {"moe_intermediate_size": 24, "num_experts_per_tok": 2}
LATENT = EXPERTS | {"kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 6, "v_head_dim": 10}
CONFIGS: dict[str, PreTrainedConfig] = {
    "opt": OPTConfig(**OPT),
    "opt untied": OPTConfig(**OPT, tie_word_embeddings=False),
    "opt post-norm, projected": OPTConfig(**OPT | {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "galactica": OPTConfig(**OPT, activation_function="gelu"),
    "galactica without biases": OPTConfig(**OPT, activation_function="gelu", enable_bias=False),
    "opt with plain norms": OPTConfig(**OPT, layer_norm_elementwise_affine=False),
    "llama": LlamaConfig(**ROTARY, tie_word_embeddings=False),
    "llama tied": LlamaConfig(**ROTARY, tie_word_embeddings=True),
    "llama with biases": LlamaConfig(**ROTARY, attention_bias=True, mlp_bias=True),
    "llama3 rope": LlamaConfig(**ROTARY, rope_parameters=LLAMA3),
    "linear rope": LlamaConfig(
        **ROTARY, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}
    ),
    "mistral": MistralConfig(**ROTARY, sliding_window=None),
    "qwen2": Qwen2Config(**ROTARY),
    "qwen3": Qwen3Config(**ROTARY, head_dim=16, tie_word_embeddings=True),
    "mixtral": MixtralConfig(**ROTARY, num_local_experts=4, num_experts_per_tok=2),
    "mistral with windows": MistralConfig(**ROTARY, sliding_window=5),
    "gemma": GemmaConfig(**ROTARY, head_dim=16),
    "gemma2": Gemma2Config(**ROTARY, **GEMMA, attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
    "gemma3": Gemma3TextConfig(
        **ROTARY | {"num_hidden_layers": 3}, **GEMMA, layer_types=[*["sliding_attention"] * 2, "full_attention"]
    ),
    "granite": GraniteConfig(
        **ROTARY,
        embedding_multiplier=3.0,
        residual_multiplier=0.6,
        attention_multiplier=0.3,
        logits_scaling=0.7,
        attention_bias=True,
    ),
    "qwen3 with experts": Qwen3MoeConfig(**ROTARY, **EXPERTS, num_experts=6, norm_topk_prob=True),
    "qwen3 with experts, windows": Qwen3MoeConfig(
        **ROTARY, **EXPERTS, num_experts=6, norm_topk_prob=False, use_sliding_window=True, sliding_window=5
    ),
    "glm4 with experts": Glm4MoeConfig(
        **ROTARY | {"num_hidden_layers": 3},
        **EXPERTS,
        head_dim=16,
        n_routed_experts=6,
        n_shared_experts=2,
        routed_scaling_factor=1.7,
        use_qk_norm=True,
        attention_bias=True,
    ),
    "glm4 with groups": Glm4MoeConfig(
        **ROTARY, **EXPERTS, n_routed_experts=6, n_group=3, topk_group=2, norm_topk_prob=False
    ),
    "gpt-oss": GptOssConfig(
        **ROTARY, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=5, swiglu_limit=SWIGLU_LIMIT
    ),
    "deepseek v2": DeepseekV2Config(
        **ROTARY | {"num_key_value_heads": 4, "num_hidden_layers": 3},
        **LATENT,
        q_lora_rank=None,
        n_routed_experts=6,
        routed_scaling_factor=1.3,
        first_k_dense_replace=1,
    ),
    "deepseek v2 with groups, biases": DeepseekV2Config(
        **ROTARY | {"num_key_value_heads": 4},
        **LATENT,
        q_lora_rank=20,
        n_routed_experts=6,
        n_group=3,
        topk_group=2,
        topk_method="group_limited_greedy",
        attention_bias=True,
        mlp_bias=True,
        n_shared_experts=1,
        rope_parameters=YARN,
    ),
    "deepseek v3": DeepseekV3Config(
        **ROTARY | {"num_key_value_heads": 4, "num_hidden_layers": 3},
        **LATENT,
        q_lora_rank=20,
        n_routed_experts=6,
        n_group=3,
        topk_group=2,
        first_k_dense_replace=1,
        rms_norm_eps=1e-3,
        rope_parameters=YARN,
    ),
    "deepseek v3, in halves": DeepseekV3Config(
        **ROTARY | {"num_key_value_heads": 4},
        **LATENT,
        q_lora_rank=None,
        n_routed_experts=5,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=0,
        norm_topk_prob=False,
        rope_interleave=False,
        attention_bias=True,
        tie_word_embeddings=True,
    ),
    "bloom": BloomConfig(vocab_size=99, hidden_size=32, n_layer=2, n_head=4),
    "bloom untied, six heads": BloomConfig(
        vocab_size=99, hidden_size=48, n_layer=2, n_head=6, tie_word_embeddings=False, layer_norm_epsilon=1e-3
    ),
    "falcon": FalconConfig(**FALCON),
    "falcon, groups": FalconConfig(
        **FALCON, new_decoder_architecture=True, num_kv_heads=2, bias=True, tie_word_embeddings=False
    ),
    "falcon, groups and one norm": FalconConfig(
        **FALCON, new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1, ffn_hidden_size=48
    ),
    "falcon, slopes": FalconConfig(
        **FALCON | {"hidden_size": 48, "num_attention_heads": 6},
        alibi=True,
        multi_query=False,
        parallel_attn=False,
        bias=True,
    ),
    "olmo2": Olmo2Config(**ROTARY),
    "starcoder2": Starcoder2Config(**ROTARY, use_bias=True, sliding_window=6),
    "starcoder2 without biases, untied": Starcoder2Config(**ROTARY, use_bias=False, tie_word_embeddings=False),
    "gpt-neox": GPTNeoXConfig(**NEOX),
    "gpt-neox, one after the other": GPTNeoXConfig(
        **NEOX | {"rope_parameters": {"rope_theta": 500.0, "partial_rotary_factor": 1.0}},
        use_parallel_residual=False,
        attention_bias=False,
        hidden_act="gelu_new",
        tie_word_embeddings=True,
    ),
    "gpt2": GPT2Config(**GPT_2),
    "gpt2, plain scores": GPT2Config(
        **GPT_2, n_inner=40, scale_attn_weights=False, activation_function="relu", tie_word_embeddings=False
    ),
    "phi3": Phi3Config(**ROTARY, sliding_window=6, pad_token_id=0),
    "phi4, longrope": Phi3Config(
        **ROTARY | {"num_attention_heads": 2},
        pad_token_id=0,
        original_max_position_embeddings=20,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 500.0,
            "partial_rotary_factor": 0.75,
            "short_factor": [1.0, 1.1, 1.2, 1.5, 1.7, 2.0],
            "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        },
    ),
}


def reference_model(config: PreTrainedConfig) -> PreTrainedModel:
    """transformers' model with random weights that are large enough for every part to matter."""
    torch.manual_seed(0)
    # the framework's attention knows neither caps nor sinks nor slopes
    odd = getattr(config, "attn_logit_softcapping", None) or config.model_type in ("gpt_oss", "bloom")
    attention = "eager" if odd else "sdpa"
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        config, attn_implementation=attention, dtype=torch.float32
    )
    for name, parameter in model.named_parameters():
        # norms stay near 1, else 350M's post-norm would wash everything out
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name and "weight" in name else 0.0, std=0.15)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            torch.nn.init.normal_(buffer, std=0.3)
    return model.eval()


def saved(config: PreTrainedConfig, directory: Path, **options: Any) -> PreTrainedModel:
    """`reference_model`, saved in `directory` as transformers does."""
    model = reference_model(config)
    model.save_pretrained(directory, **options)
    return model


def saved_npy(model: PreTrainedModel, directory: Path, suffix: str = "") -> None:
    """The model as FlexLLMGen keeps it: one array a file, no "model." in front, its own name for the last norm."""
    directory.mkdir(parents=True)
    for name, tensor in model.state_dict().items():
        name = name.replace("model.", "").replace("decoder.final_layer_norm", "decoder.layer_norm")
        with (directory / f"{name}{suffix}").open("wb") as file:
            np.save(file, tensor.half().numpy())


def uncut(rows: int) -> list[int]:
    return [rows]


def layer_weights(reader: WeightReader, shape: ModelShape, layer: int, cut: Cut = uncut) -> dict[str, Pieces]:
    """The tensors of one layer in float32, each read in the pieces that `cut` asks for."""
    found = {}
    for tensor in weight_tensors(shape):
        if tensor.layer == layer:
            pieces, row = [], 0
            for rows in cut(tensor.rows):
                pieces.append(torch.full((rows, tensor.cols), torch.nan))
                reader.read_rows(tensor.name, layer, row, rows, pieces[-1])
                row += rows
            found[tensor.name] = tuple(pieces)
    return found


def attend(family: Family, depth: int, q_BSNH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor) -> Tensor:
    """Causal attention as the layer has it, (B, S, N x H)."""
    rule, length = family.rule(depth, torch.device("cpu")), q_BSNH.shape[1]
    mask = prompt_mask(torch.zeros(1, dtype=torch.int64), length, window=rule.window)
    if rule.is_plain:
        return prompt_attention(q_BSNH, k_BSKH, v_BSKH, mask, rule.scale)
    return scored_prompt_attention(q_BSNH, k_BSKH, v_BSKH, mask, rule)


@torch.no_grad()
def logits(maths: Family, reader: WeightReader, ids_BS: Tensor, cut: Cut = uncut) -> Tensor:
    """Logits (B, S, V) of a whole forward pass."""
    shape = maths.shape
    positions_BS = torch.arange(ids_BS.shape[1]).expand_as(ids_BS)
    embed, head = (layer_weights(reader, shape, layer, cut) for layer in (-1, shape.num_layers))
    table = torch.cat((head if shape.tied_embeddings else embed)[TOKENS])
    hidden = maths.embed(embed, table[ids_BS], positions_BS)
    for layer in range(shape.num_layers):
        w = layer_weights(reader, shape, layer, cut)
        maths.prepare(w, layer)
        attention = attend(maths, layer, *maths.project(w, hidden, positions_BS, layer))
        hidden = maths.both(w, hidden, attention) if shape.parallel else maths.mlp(w, maths.merge(w, hidden, attention))
    return maths.head(head, hidden)


def our_logits(directory: Path, ids_BS: Tensor, cut: Cut = uncut, weights: Path | None = None) -> Tensor:
    """`logits` of a saved model, whose weights may be in another directory."""
    shape, math = read_config(directory)
    maths, reader = family(shape, math), open_checkpoint(weights or directory, shape)
    maths.learn(reader)
    return logits(maths, reader, ids_BS, cut)


@torch.no_grad()
def reference_logits(model: PreTrainedModel, ids_BS: Tensor) -> Tensor:
    return model(ids_BS).logits
