"""The ``config.json`` of GPT-2: learned positions, matrices that lie by input, keys with names of their own."""

from __future__ import annotations

from flexplan.model.constants import ModelConstants
from flexplan.model.families.keys.fields import ANY, Fields
from flexplan.model.families.keys.names import Names
from flexplan.model.shape import ModelShape

GPT2 = ANY | {
    "max_position_embeddings": 1024,
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "pad_token_id": None,
}
ALSO = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
}

NAMES = Names(
    roots=("transformer.", ""),
    layer="h.{}.",
    outside={"tokens": ("wte",), "positions": ("wpe",), "final_norm": ("ln_f",), "lm_head": ("lm_head",)},
    inside={
        "attention_norm": ("ln_1",),
        "qkv": ("attn.c_attn",),
        "out": ("attn.c_proj",),
        "mlp_norm": ("ln_2",),
        "up": ("mlp.c_fc",),
        "down": ("mlp.c_proj",),
    },
    transposed=frozenset(("qkv", "out", "up", "down")),
)


def read_gpt2(f: Fields, name: str) -> tuple[ModelShape, ModelConstants]:
    """Sizes and constants of a GPT-2 model."""
    f.refuse("add_cross_attention", "attention to an encoder")
    f.refuse("scale_attn_by_inverse_layer_idx", "another scale of attention in each layer")
    positions = f.count("max_position_embeddings")
    f.refuse_windows(positions)
    shape = f.shape(
        name,
        ffn_size=f.count("n_inner") if "n_inner" in f else 4 * f.count("hidden_size"),
        gated=False,
        positions="learned",
        max_positions=positions,
        norm="layer",
        norm_bias=True,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    )
    scale = {} if f.flag("scale_attn_weights") else {"attention_scale": 1.0}
    activation, eps = f.activation("activation_function"), f.number("layer_norm_epsilon")
    return shape, f.math(shape, activation=activation, norm_eps=eps, **scale)
