"""The ``config.json`` of DeepSeek-V2, V3 and what has their architecture (R1, Kimi K2): latent attention, experts."""

from __future__ import annotations

import math
from typing import Any

from flexplan.model.constants import ModelConstants, Routing
from flexplan.model.families.keys.fields import MOST_LAYERS, Fields, positive
from flexplan.model.families.keys.names import GLM_EXPERTS, renamed
from flexplan.model.families.keys.rope import read_rope, rope_table
from flexplan.model.families.keys.rotary import DEFAULTS, read_rotary
from flexplan.model.shape import Latent, ModelShape

_BOTH = {k: v for k, v in DEFAULTS.items() if k != "head_dim"} | {
    "attention_bias": False,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "moe_layer_freq": 1,
    "scoring_func": None,
}
DEEPSEEK_V2 = _BOTH | {
    "max_position_embeddings": 2048,
    "mlp_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "moe_intermediate_size": 1407,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": None,
    "routed_scaling_factor": 1.0,
    "topk_method": "greedy",
    "n_group": None,
    "topk_group": None,
    "norm_topk_prob": False,
    "first_k_dense_replace": 0,
}
DEEPSEEK_V3 = _BOTH | {
    "max_position_embeddings": 4096,
    "num_key_value_heads": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "routed_scaling_factor": 2.5,
    "topk_method": "noaux_tc",
    "n_group": 8,
    "topk_group": 4,
    "norm_topk_prob": True,
    "first_k_dense_replace": 3,
    "rope_interleave": True,
}

NAMES = renamed(
    GLM_EXPERTS,
    q="self_attn.q_proj",
    q_down="self_attn.q_a_proj",
    q_down_norm="self_attn.q_a_layernorm",
    q_up="self_attn.q_b_proj",
    kv_down="self_attn.kv_a_proj_with_mqa",
    kv_down_norm="self_attn.kv_a_layernorm",
    kv_up="self_attn.kv_b_proj",
)

Found = tuple[ModelShape, ModelConstants]


def read_deepseek_v2(f: Fields, name: str) -> Found:
    """Experts by softmax; a group of them is as good as its best one."""
    f.refuse("norm_topk_prob", "weights of experts that sum to 1, which transformers leaves out")
    method = _one_of(f, "topk_method", ("greedy", "group_limited_greedy"))
    _one_of(f, "scoring_func", (None, "softmax"))
    groups, kept = _groups(f) if method == "group_limited_greedy" else (1, 1)
    scale = f.number("routed_scaling_factor")
    routing = Routing(in_float=True, normalised=False, scale=scale, groups=groups, groups_kept=kept, group_best=1)
    return _read(f, name, routing, {"mlp_bias": f.flag("mlp_bias")}, interleaved=True)


def read_deepseek_v3(f: Fields, name: str) -> Found:
    """Experts by sigmoid and a correction, in groups that are as good as their two best."""
    _one_of(f, "topk_method", ("noaux_tc",))
    _one_of(f, "scoring_func", (None, "sigmoid"))
    groups, kept = _groups(f)
    normalised, scale = f.flag("norm_topk_prob"), f.number("routed_scaling_factor")
    routing = Routing(
        score="sigmoid", in_float=True, normalised=normalised, scale=scale, groups=groups, groups_kept=kept
    )
    return _read(f, name, routing, {"router_correction": True}, interleaved=f.flag("rope_interleave"))


def _read(f: Fields, name: str, routing: Routing, more: dict[str, Any], *, interleaved: bool) -> Found:
    if f.count("moe_layer_freq") != 1:
        raise f.wrong("moe_layer_freq", "1: experts in every layer after the first ones")
    latent, heads = _latent(f), f.count("num_attention_heads")
    if f.count("hidden_size") % heads:
        raise f.uneven("hidden_size", f.count("hidden_size"), "num_attention_heads", heads)
    if "num_key_value_heads" in f.given and f.values["num_key_value_heads"] not in (None, heads):
        raise f.wrong("num_key_value_heads", f"num_attention_heads, {heads}: every head makes its own key and value")
    rope = read_rope(f, latent.turned)
    shape = {
        "num_heads": heads,
        "num_kv_heads": 1,
        "head_dim": latent.size + latent.turned,
        "latent": latent,
        **_experts(f, routing),
        **more,
    }
    constants = {
        "routing": routing,
        "rotary_dim": latent.turned,
        "rope_interleaved": interleaved,
        "attention_scale": (latent.plain + latent.turned) ** -0.5 * _sharpened(f),
    }
    return read_rotary(f, name, rope=rope, heads=(heads, 1, latent.size + latent.turned), shape=shape, math=constants)


def _groups(f: Fields) -> tuple[int, int]:
    return f.count("n_group"), f.count("topk_group", f.count("n_group"))


def _latent(f: Fields) -> Latent:
    return Latent(
        size=f.count("kv_lora_rank"),
        turned=f.count("qk_rope_head_dim"),
        plain=f.count("qk_nope_head_dim"),
        value=f.count("v_head_dim"),
        queries=f.count("q_lora_rank") if "q_lora_rank" in f else 0,
    )


def _experts(f: Fields, routing: Routing) -> dict[str, Any]:
    experts, layers = f.count("n_routed_experts", MOST_LAYERS), f.count("num_hidden_layers", MOST_LAYERS)
    width, groups = f.count("moe_intermediate_size"), routing.groups
    if experts % groups or experts // groups < routing.group_best:
        raise f.wrong("n_group", f"what parts {experts} experts into groups of {routing.group_best} or more, all alike")
    return {
        "num_experts": experts,
        "experts_per_token": f.count("num_experts_per_tok", experts // groups * routing.groups_kept),
        "expert_ffn_size": width,
        "shared_ffn_size": width * f.count("n_shared_experts"),
        "dense_layers": min(f.whole("first_k_dense_replace"), layers),
    }


def _sharpened(f: Fields) -> float:
    """What multiplies scores beside their scale, where positions are stretched: 0.1 m ln(factor) + 1, twice."""
    table = rope_table(f)
    stretched = table.get("rope_type", table.get("type", "default")) != "default"
    if not stretched or not table.get("mscale_all_dim"):
        return 1.0
    whole, factor = (positive(table.get(key), f"rope {key}", f.where) for key in ("mscale_all_dim", "factor"))
    return (0.1 * whole * math.log(factor) + 1.0) ** 2 if factor > 1 else 1.0


def _one_of(f: Fields, key: str, allowed: tuple[str | None, ...]) -> str | None:
    value: str | None = f.values.get(key)
    if value not in allowed:
        raise f.wrong(key, " or ".join(repr(a) for a in allowed if a))
    return value
