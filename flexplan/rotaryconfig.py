"""The ``config.json`` of Llama and those like it: rotary positions, gated MLPs, sliding windows, experts."""

from __future__ import annotations

from flexplan.configkeys import MOST_LAYERS, Fields
from flexplan.errors import ModelFilesError
from flexplan.modelmath import ModelMath
from flexplan.ropeconfig import reach, read_rope
from flexplan.shapes import ModelShape


def read_rotary(f: Fields, name: str) -> tuple[ModelShape, ModelMath]:
    """Sizes and constants of a Llama, Mistral, Mixtral or Qwen model."""
    heads, kv_heads, head_dim = f.heads()
    if head_dim % 2:
        raise ModelFilesError(
            "FP506", f"{f.where}: head_dim is {head_dim}, rotary positions need a multiple of 2", fix="correct head_dim"
        )
    experts, experts_per_token = _experts(f)
    theta, scaling = read_rope(f, head_dim)
    window, positions = f.window(), reach(scaling, f.count("max_position_embeddings"))
    shape = ModelShape(
        name=name,
        family=f.family,
        num_layers=f.count("num_hidden_layers", MOST_LAYERS),
        hidden_size=f.count("hidden_size"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        ffn_size=f.count("intermediate_size"),
        gated=True,
        vocab_size=f.count("vocab_size"),
        embed_size=f.count("hidden_size"),
        tied_embeddings=f.flag("tie_word_embeddings"),
        positions="rotary",
        max_positions=min(positions, window or positions),
        norm="rms",
        qkv_bias=f.family == "qwen2" or f.flag("attention_bias"),
        out_bias=f.flag("attention_bias"),
        mlp_bias=f.flag("mlp_bias"),
        qk_norm=f.family == "qwen3",
        num_experts=experts,
        experts_per_token=experts_per_token,
        bytes_per_element=f.bytes_per_element(),
    )
    return shape, f.math(
        shape,
        activation=f.activation("hidden_act"),
        norm_eps=f.number("rms_norm_eps"),
        rope_theta=theta,
        rope_scaling=scaling,
        sliding_window=window if window and window < positions else None,
    )


def _experts(f: Fields) -> tuple[int, int]:
    """Experts of a layer and those that a token uses; none where the family has none."""
    if f.family != "mixtral":
        return 0, 0
    key = "num_experts" if "num_experts" in f else "num_local_experts"  # two names; the general one wins
    experts = f.count(key, MOST_LAYERS)
    return experts, f.count("num_experts_per_tok", experts)
