"""What the ``config.json`` files of Llama and those like it share: rotary positions, gated MLPs, windows.

A family's own file says what it has beside or instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flexplan.model.constants import ModelConstants
from flexplan.model.families.keys.fields import ANY, Fields
from flexplan.model.families.keys.rope import Rope, reach, read_rope
from flexplan.model.shape import ModelShape

DEFAULTS: dict[str, Any] = ANY | {
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "num_key_value_heads": None,
    "head_dim": None,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10_000.0,
    "rope_scaling": None,
    "rope_parameters": None,
    "partial_rotary_factor": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def read_rotary(
    f: Fields,
    name: str,
    *,
    windows: tuple[tuple[int, ...], int | None] | None = None,
    rope: Rope | None = None,
    heads: tuple[int, int, int] | None = None,
    shape: Mapping[str, Any] | None = None,
    math: Mapping[str, Any] | None = None,
) -> tuple[ModelShape, ModelConstants]:
    """Sizes and constants of a model like Llama's; the others are what a family has instead.

    ``heads``: query heads, KV heads and the width of a head.
    """
    count, kv_heads, head_dim = heads or f.heads()
    rope = rope or read_rope(f, head_dim)
    positions = reach(rope.scaling, f.count("max_position_embeddings"))
    sizes = {
        "num_heads": count,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        **({} if shape and "ffn_size" in shape else {"ffn_size": f.count("intermediate_size")}),
        "gated": True,
        "positions": "rotary",
        "norm": "rms",
        "qkv_bias": f.flag("attention_bias"),
        "out_bias": f.flag("attention_bias"),
        "mlp_bias": f.flag("mlp_bias"),
        **_lengths(f, positions, windows or f.windows(slides=False)),
    }
    found = f.shape(name, **{**sizes, **(shape or {})})
    constants = {
        "activation": f.activation("hidden_act") if "hidden_act" in f.values else "silu",
        "norm_eps": f.number("rms_norm_eps") if "rms_norm_eps" in f.values else 0.0,
        "rope_theta": rope.theta,
        "rope_scaling": rope.scaling,
        "rotary_dim": rope.dim if rope.dim < head_dim else None,
    }
    return found, f.math(found, **{**constants, **(math or {})})


def _lengths(f: Fields, positions: int, windows: tuple[tuple[int, ...], int | None]) -> dict[str, Any]:
    """The longest sequence, and the windows that are shorter; what sees later tokens is computed whole."""
    sizes, most = windows
    shorter = tuple(size if 0 < size < positions else 0 for size in sizes)
    if not f.flag("is_causal"):
        most, shorter = min((n for n in (*shorter, most or 0) if n), default=None), ()
    return {"max_positions": min(positions, most or positions), "windows": shorter if any(shorter) else ()}
