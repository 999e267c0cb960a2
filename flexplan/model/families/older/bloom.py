"""The ``config.json`` of Bloom: slopes instead of positions, normed token rows."""

from __future__ import annotations

from flexplan.model.constants import ModelConstants
from flexplan.model.families.keys.fields import ANY, MOST, Fields
from flexplan.model.families.keys.names import Names
from flexplan.model.families.keys.slopes import alibi_slopes
from flexplan.model.shape import ModelShape

BLOOM = ANY | {
    "layer_norm_epsilon": 1e-5,
    "apply_residual_connection_post_layernorm": False,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
ALSO = {"n_embed": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}

NAMES = Names(
    roots=("transformer.", ""),
    layer="h.{}.",
    outside={
        "tokens": ("word_embeddings",),
        "embed_norm": ("word_embeddings_layernorm",),
        "final_norm": ("ln_f",),
        "lm_head": ("lm_head",),
    },
    inside={
        "attention_norm": ("input_layernorm",),
        "qkv": ("self_attention.query_key_value",),
        "out": ("self_attention.dense",),
        "mlp_norm": ("post_attention_layernorm",),
        "up": ("mlp.dense_h_to_4h",),
        "down": ("mlp.dense_4h_to_h",),
    },
    by_head=True,
)


def read_bloom(f: Fields, name: str) -> tuple[ModelShape, ModelConstants]:
    """Sizes and constants of a Bloom model; no position is too far."""
    f.refuse("apply_residual_connection_post_layernorm", "blocks that add to what was normed")
    f.refuse_windows(MOST)
    shape = f.shape(
        name,
        ffn_size=4 * f.count("hidden_size"),
        gated=False,
        positions="alibi",
        max_positions=MOST,
        norm="layer",
        norm_bias=True,
        embed_norm=True,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    )
    slopes, eps = alibi_slopes(shape.num_heads), f.number("layer_norm_epsilon")
    return shape, f.math(shape, activation="gelu_pytorch_tanh", norm_eps=eps, alibi_slopes=slopes)
