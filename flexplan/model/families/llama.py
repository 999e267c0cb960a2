"""The ``config.json`` of Llama, Mistral, Mixtral, Qwen2 and Qwen3."""

from __future__ import annotations

from flexplan.model.constants import ModelConstants, Routing
from flexplan.model.families.keys.fields import MOST_LAYERS, Fields
from flexplan.model.families.keys.rotary import DEFAULTS, read_rotary
from flexplan.model.shape import ModelShape

LLAMA = (
    DEFAULTS
    | {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2}
    | {
        "attention_bias": False,
        "mlp_bias": False,
    }
)
_MISTRAL = DEFAULTS | {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
}
MISTRAL = _MISTRAL | {"sliding_window": 4096}
MIXTRAL = _MISTRAL | {
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "sliding_window": None,
    "num_local_experts": 8,
    "num_experts": None,
    "num_experts_per_tok": 2,
}
QWEN_WINDOW = {"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28}
QWEN2 = DEFAULTS | QWEN_WINDOW | {"num_key_value_heads": 32}
QWEN3 = QWEN2 | {"head_dim": 128, "attention_bias": False}

QWEN3_MOE = (
    DEFAULTS
    | {"sliding_window": 4096, "use_sliding_window": False, "num_key_value_heads": 4, "attention_bias": False}
    | {"moe_intermediate_size": 768, "num_experts": 128, "num_local_experts": None, "num_experts_per_tok": 8}
    | {"norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": None}
)

Found = tuple[ModelShape, ModelConstants]


def read_llama(f: Fields, name: str) -> Found:
    """Llama, and what is called Llama."""
    return read_rotary(f, name)


def read_mistral(f: Fields, name: str) -> Found:
    """Llama whose layers all slide."""
    return read_rotary(f, name, windows=f.windows(slides=True, always=True))


def read_mixtral(f: Fields, name: str) -> Found:
    """Mistral with a mixture of experts, counted under two names, of which the general one wins."""
    experts = f.count("num_experts" if "num_experts" in f else "num_local_experts", MOST_LAYERS)
    shape = {"num_experts": experts, "experts_per_token": f.count("num_experts_per_tok", experts)}
    return read_rotary(f, name, windows=f.windows(slides=True, always=True), shape=shape)


def read_qwen2(f: Fields, name: str) -> Found:
    """Biases of queries, keys and values; the upper layers may slide."""
    return read_rotary(f, name, windows=f.windows(slides=True), shape={"qkv_bias": True})


def read_qwen3(f: Fields, name: str) -> Found:
    """Norms of queries and keys."""
    return read_rotary(f, name, windows=f.windows(slides=True), shape={"qk_norm": True})


def read_qwen3_moe(f: Fields, name: str) -> Found:
    """Qwen3 with experts in every layer."""
    f.refuse("mlp_only_layers", "layers without experts among the others")
    if f.count("decoder_sparse_step") != 1:
        raise f.wrong("decoder_sparse_step", "1: experts in every layer")
    experts = f.count("num_local_experts" if "num_local_experts" in f else "num_experts", MOST_LAYERS)
    shape = {
        "qk_norm": True,
        "num_experts": experts,
        "experts_per_token": f.count("num_experts_per_tok", experts),
        "expert_ffn_size": f.count("moe_intermediate_size"),
    }
    routing = Routing(normalised=f.flag("norm_topk_prob"))
    # its mathematics slides whatever the types of its layers are
    return read_rotary(f, name, windows=_moe_windows(f), shape=shape, math={"routing": routing})


def _moe_windows(f: Fields) -> tuple[tuple[int, ...], int | None]:
    return f.windows(slides=True, always=True)
