"""The ``config.json`` of GLM-4.5 and later mixtures of its kind (glm4_moe)."""

from __future__ import annotations

from flexplan.model.constants import ModelConstants, Routing
from flexplan.model.families.keys.fields import MOST_LAYERS, Fields
from flexplan.model.families.keys.rope import read_rope
from flexplan.model.families.keys.rotary import DEFAULTS, read_rotary
from flexplan.model.shape import ModelShape

GLM4_MOE = DEFAULTS | {
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "partial_rotary_factor": 0.5,
    "attention_bias": False,
    "use_qk_norm": False,
    "moe_intermediate_size": 1408,
    "num_experts_per_tok": 8,
    "n_routed_experts": 128,
    "num_local_experts": None,
    "n_shared_experts": 1,
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
}


def read_glm4_moe(f: Fields, name: str) -> tuple[ModelShape, ModelConstants]:
    """Half of each head turns; a few dense layers, then experts by sigmoid, in groups, and one that all tokens use."""
    _, _, head_dim = f.heads()
    experts = f.count("num_local_experts" if "num_local_experts" in f else "n_routed_experts", MOST_LAYERS)
    width, layers = f.count("moe_intermediate_size"), f.count("num_hidden_layers", MOST_LAYERS)
    shape = {
        "out_bias": False,
        "qk_norm": f.flag("use_qk_norm"),
        "num_experts": experts,
        "experts_per_token": f.count("num_experts_per_tok", experts),
        "expert_ffn_size": width,
        "shared_ffn_size": width * f.count("n_shared_experts"),
        "dense_layers": min(f.whole("first_k_dense_replace"), layers),
        "router_correction": True,
    }
    routing = Routing(
        score="sigmoid",
        in_float=True,
        normalised=f.flag("norm_topk_prob"),
        scale=f.number("routed_scaling_factor"),
        groups=f.count("n_group"),
        groups_kept=f.count("topk_group", f.count("n_group")),
    )
    if experts % routing.groups or experts // routing.groups < 2:
        raise f.wrong("n_group", f"what parts {experts} experts into groups of 2 or more, all alike")
    rope = read_rope(f, head_dim, partial=True)
    return read_rotary(f, name, rope=rope, shape=shape, math={"routing": routing})
