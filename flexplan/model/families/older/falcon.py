"""The ``config.json`` of Falcon: 7b (one KV head), 40b, 180B and 11B (groups), rw (slopes, a block after the other)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flexplan.model.constants import ModelConstants
from flexplan.model.families.keys.fields import Fields
from flexplan.model.families.keys.rotary import DEFAULTS, read_rotary
from flexplan.model.families.keys.slopes import alibi_slopes
from flexplan.model.families.older.bloom import NAMES as BLOOM_NAMES
from flexplan.model.shape import ModelShape

_LLAMAS = ("hidden_act", "rms_norm_eps", "num_key_value_heads", "head_dim")
FALCON = {k: v for k, v in DEFAULTS.items() if k not in _LLAMAS} | {
    "activation": "gelu",
    "max_position_embeddings": 2048,
    "layer_norm_epsilon": 1e-5,
    "num_kv_heads": None,
    "ffn_hidden_size": None,
    "num_ln_in_parallel_attn": None,
    "alibi": False,
    "new_decoder_architecture": False,
    "multi_query": True,
    "parallel_attn": True,
    "bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": 11,
    "eos_token_id": 11,
}
ALSO = {"n_embed": "hidden_size"}
NAMES = replace(BLOOM_NAMES, otherwise={"attention_norm": "ln_attn", "mlp_norm": "ln_mlp"})


def read_falcon(f: Fields, name: str) -> tuple[ModelShape, ModelConstants]:
    """Both blocks are given the same, each normed by itself or both by one; those of rw follow each other."""
    hidden, heads = f.count("hidden_size"), f.count("num_attention_heads")
    if hidden % heads:
        raise f.uneven("hidden_size", hidden, "num_attention_heads", heads)
    biased, sloped = f.flag("bias"), f.flag("alibi")
    shape = {
        "gated": False,
        "ffn_size": f.count("ffn_hidden_size") if "ffn_hidden_size" in f else 4 * hidden,
        "norm": "layer",
        "norm_bias": True,
        "qkv_bias": biased,
        "out_bias": biased,
        "mlp_bias": biased,
        **_norms(f),
        **({"positions": "alibi"} if sloped else {}),
    }
    math: dict[str, Any] = {"activation": f.activation("activation"), "norm_eps": f.number("layer_norm_epsilon")}
    if sloped:
        math |= {"rope_theta": None, "rope_scaling": None, "alibi_slopes": alibi_slopes(heads), "alibi_rounded": True}
    return read_rotary(f, name, heads=(heads, _kv_heads(f, heads), hidden // heads), shape=shape, math=math)


def _kv_heads(f: Fields, heads: int) -> int:
    given = f.count("num_kv_heads") if "num_kv_heads" in f else heads
    if f.flag("new_decoder_architecture"):
        if heads % given:
            raise f.uneven("num_attention_heads", heads, "num_kv_heads", given)
        return given
    if f.flag("multi_query"):
        return 1
    if given != heads:
        raise f.wrong("num_kv_heads", f"num_attention_heads, {heads}, without new_decoder_architecture")
    return heads


def _norms(f: Fields) -> dict[str, bool]:
    """Whether both blocks are given the same, and normed by one norm."""
    new, parallel = f.flag("new_decoder_architecture"), f.flag("parallel_attn")
    norms = f.count("num_ln_in_parallel_attn", 2) if "num_ln_in_parallel_attn" in f else 1 + new
    if new and not parallel:
        raise f.wrong("parallel_attn", "true with new_decoder_architecture")
    if not new and parallel and norms == 2:
        raise f.wrong("num_ln_in_parallel_attn", "1 without new_decoder_architecture")
    return {"parallel": parallel, "shared_norm": parallel and norms == 1}
