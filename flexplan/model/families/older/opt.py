"""OPT's ``config.json``: learned positions, layer norms, biases that can be switched off."""

from __future__ import annotations

from flexplan.model.constants import ModelConstants
from flexplan.model.families.keys.fields import ANY, Fields
from flexplan.model.families.keys.names import Names
from flexplan.model.shape import ModelShape

DEFAULTS = ANY | {
    "activation_function": "relu",
    "max_position_embeddings": 2048,
    "word_embed_proj_dim": None,
    "do_layer_norm_before": True,
    "_remove_final_layer_norm": False,
    "enable_bias": True,
    "layer_norm_elementwise_affine": True,
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "eos_token_id": 2,
    "pad_token_id": 1,
}

NAMES = Names(
    roots=("model.decoder.", "decoder.", ""),
    layer="layers.{}.",
    outside={
        "tokens": ("embed_tokens",),
        "positions": ("embed_positions",),
        "project_in": ("project_in",),
        # one .npy per tensor, as FlexLLMGen writes it, calls the last norm "layer_norm"
        "final_norm": ("final_layer_norm", "layer_norm"),
        "project_out": ("project_out",),
        "lm_head": ("lm_head",),
    },
    inside={
        "attention_norm": ("self_attn_layer_norm",),
        "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "out": ("self_attn.out_proj",),
        "mlp_norm": ("final_layer_norm",),
        "up": ("fc1",),
        "down": ("fc2",),
    },
)


def read_opt(f: Fields, name: str) -> tuple[ModelShape, ModelConstants]:
    """Sizes and constants of an OPT model."""
    pre_norm, biased, affine = (
        f.flag(k) for k in ("do_layer_norm_before", "enable_bias", "layer_norm_elementwise_affine")
    )
    embed_key = "word_embed_proj_dim" if "word_embed_proj_dim" in f else "hidden_size"
    positions = f.count("max_position_embeddings")
    f.refuse_windows(positions)
    shape = f.shape(
        name,
        ffn_size=f.count("ffn_dim"),
        gated=False,
        embed_size=f.count(embed_key),
        positions="learned",
        max_positions=positions,
        position_offset=2,
        norm="layer",
        pre_norm=pre_norm,
        final_norm=pre_norm and not f.flag("_remove_final_layer_norm"),
        norm_affine=affine,
        norm_bias=affine,
        qkv_bias=biased,
        out_bias=biased,
        mlp_bias=biased,
    )
    return shape, f.math(shape, activation=f.activation("activation_function"), norm_eps=1e-5)
