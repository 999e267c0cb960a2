"""The ``config.json`` of Gemma, Gemma 2 and the text models of Gemma 3."""

from __future__ import annotations

from typing import Any

from flexplan.model.constants import ModelConstants
from flexplan.model.families.keys.fields import Fields
from flexplan.model.families.keys.names import LLAMA, renamed
from flexplan.model.families.keys.rope import Rope, read_rope
from flexplan.model.families.keys.rotary import DEFAULTS, read_rotary
from flexplan.model.shape import ModelShape

_COMMON = DEFAULTS | {
    "max_position_embeddings": 8192,
    "head_dim": 256,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "use_bidirectional_attention": None,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
GEMMA = _COMMON | {"hidden_act": "gelu_pytorch_tanh", "num_key_value_heads": 16}
_SECOND = {k: v for k, v in _COMMON.items() if k != "hidden_act"} | {
    "hidden_activation": "gelu_pytorch_tanh",
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
GEMMA2 = _SECOND | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
# attn_logit_softcapping is not read: transformers' Gemma 3 keeps it and computes without it
GEMMA3 = _SECOND | {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "max_position_embeddings": 131072,
    "final_logit_softcapping": None,
    "rope_theta": 1e6,
    "rope_local_base_freq": 10_000.0,
    "sliding_window_pattern": 6,
}
NAMES = renamed(
    LLAMA,
    attention_added_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_added_norm="post_feedforward_layernorm",
)

Found = tuple[ModelShape, ModelConstants]


def read_gemma(f: Fields, name: str) -> Found:
    """The first: token rows are scaled, norms are shifted by 1."""
    f.refuse("use_bidirectional_attention", "attention to later tokens")
    return read_rotary(f, name, math=_scaled(f))


def read_gemma2(f: Fields, name: str) -> Found:
    """Every other layer slides, attention and logits are capped, norms stand on both sides of a block."""
    f.refuse("use_bidirectional_attention", "attention to later tokens")
    cap = f.optional("attn_logit_softcapping")
    shape, math = {"added_norm": True, "capped_scores": cap is not None}, _second(f) | {"attention_softcap": cap}
    return read_rotary(f, name, windows=f.windows(slides=True, pattern=2), shape=shape, math=math)


def read_gemma3(f: Fields, name: str) -> Found:
    """Five layers of six slide, and turn by a base of their own; queries and keys have norms."""
    f.refuse("use_bidirectional_attention", "attention to later tokens")
    rope, local = _ropes(f)
    return read_rotary(
        f,
        name,
        windows=f.windows(slides=True, pattern=f.count("sliding_window_pattern")),
        rope=rope,
        shape={"added_norm": True, "qk_norm": True},
        math=_second(f) | {"rope_local_theta": local},
    )


def _scaled(f: Fields) -> dict[str, Any]:
    return {"embed_scale": f.count("hidden_size") ** 0.5, "norm_shift": 1.0, "norm_in_float": True}


def _second(f: Fields) -> dict[str, Any]:
    return _scaled(f) | {
        "activation": f.activation("hidden_activation"),
        "attention_scale": f.number("query_pre_attn_scalar") ** -0.5,
        "logits_softcap": f.optional("final_logit_softcapping"),
    }


def _ropes(f: Fields) -> tuple[Rope, float]:
    """Of layers that read all, from either dialect, and the base of those that slide."""
    tables = f.values.get("rope_parameters") or {}
    kinds, stretched = {"full_attention", "sliding_attention"}, f.values.get("rope_scaling") or {}
    each = list(tables.values()) if isinstance(tables, dict) else []
    if not isinstance(tables, dict) or not tables.keys() <= kinds or not all(isinstance(t or {}, dict) for t in each):
        raise f.wrong("rope_parameters", "an object with a table for full_attention and one for sliding_attention")
    full, local = ({**(tables.get(f"{kind}_attention") or {})} for kind in ("full", "sliding"))
    if not isinstance(stretched, dict):
        raise f.wrong("rope_scaling", "an object")
    full |= stretched
    full.setdefault("rope_theta", f.values["rope_theta"])
    local.setdefault("rope_theta", f.values["rope_local_base_freq"])
    _, _, head_dim = f.heads()
    window = read_rope(f, head_dim, given=local)
    if window.scaling is not None:
        raise f.wrong("rope_parameters", "rope_type default for sliding_attention")
    return read_rope(f, head_dim, given=full), window.theta
