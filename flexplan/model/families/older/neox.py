"""The ``config.json`` of GPT-NeoX and Pythia: attention and feed-forward side by side, a part of each head turns."""

from __future__ import annotations

from flexplan.model.constants import ModelConstants
from flexplan.model.families.keys.fields import Fields
from flexplan.model.families.keys.names import Names
from flexplan.model.families.keys.rope import read_rope, rope_table
from flexplan.model.families.keys.rotary import DEFAULTS, read_rotary
from flexplan.model.shape import ModelShape

_LLAMAS = ("rms_norm_eps", "num_key_value_heads", "head_dim", "rope_theta", "partial_rotary_factor")
GPT_NEOX = {k: v for k, v in DEFAULTS.items() if k not in _LLAMAS} | {
    "hidden_act": "gelu",
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "use_parallel_residual": True,
    "rotary_emb_base": 10_000.0,
    "rotary_pct": 0.25,
    "attention_bias": True,
    "bos_token_id": 0,
    "eos_token_id": 2,
}

NAMES = Names(
    roots=("gpt_neox.", ""),
    layer="layers.{}.",
    outside={"tokens": ("embed_in",), "final_norm": ("final_layer_norm",), "lm_head": ("embed_out", "lm_head")},
    inside={
        "attention_norm": ("input_layernorm",),
        "qkv": ("attention.query_key_value",),
        "out": ("attention.dense",),
        "mlp_norm": ("post_attention_layernorm",),
        "up": ("mlp.dense_h_to_4h",),
        "down": ("mlp.dense_4h_to_h",),
    },
    by_head=True,
)


def read_gpt_neox(f: Fields, name: str) -> tuple[ModelShape, ModelConstants]:
    """``use_parallel_residual`` may be off; biases of the feed-forward may not."""
    _, _, head_dim = f.heads()
    shape = {
        "gated": False,
        "norm": "layer",
        "norm_bias": True,
        "mlp_bias": True,
        "parallel": f.flag("use_parallel_residual"),
    }
    rope = read_rope(f, head_dim, partial=True, given=rope_table(f, "rotary_emb_base", "rotary_pct"))
    return read_rotary(f, name, rope=rope, shape=shape, math={"norm_eps": f.number("layer_norm_eps")})
