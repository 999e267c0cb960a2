"""A GGUF file's metadata as the `config.json` of its family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from flexplan_runtime.weights.gguf.file import GgufFile

_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_ROPE_FACTORS = "rope_freqs.weight"


def config_of(file: GgufFile) -> dict[str, Any]:
    """The `config.json`; what the family, or flexplan, does not compute is refused by its key."""
    family = FAMILIES.get(file.architecture)
    if family is None:
        fix = f"use a model of these: {', '.join(FAMILIES)}; or a safetensors checkpoint"
        raise file.refuse(f"its architecture {file.architecture!r:.80} is not converted", fix)
    if file.get("expert_count", 0):
        raise file.refuse("it is a mixture of experts, which is not converted", "use a safetensors checkpoint")
    return _common(file) | family(file)


def _common(file: GgufFile) -> dict[str, Any]:
    heads, width = file.count("attention.head_count"), file.count("embedding_length")
    ids = {key: file.get(f"tokenizer.ggml.{name}_token_id", None) for key, name in _IDS.items()}
    return {
        "hidden_size": width,
        "intermediate_size": file.count("feed_forward_length"),
        "num_hidden_layers": file.count("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.count("attention.head_count_kv", heads),
        "head_dim": file.count("attention.key_length", width // max(heads, 1)),
        "max_position_embeddings": file.count("context_length"),
        "rms_norm_eps": _decimal(file.get("attention.layer_norm_rms_epsilon")),
        "rope_theta": float(file.get("rope.freq_base", 10000.0)),
        "vocab_size": len(file.get("tokenizer.ggml.tokens")),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **ids,
    }


_IDS = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}


def _decimal(stored: float) -> float:
    """The number that was stored as a float32: 9.99999e-6 was 1e-5."""
    return float(f"{stored:.6g}")


def _llama(file: GgufFile) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float16",
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": False,
        **_scaling(file),
    }


def _qwen(version: str) -> Callable[[GgufFile], dict[str, Any]]:
    def qwen(file: GgufFile) -> dict[str, Any]:
        found = {"model_type": f"qwen{version}", "dtype": "float16", "hidden_act": "silu", "use_sliding_window": False}
        return {"architectures": [f"Qwen{version}ForCausalLM"], **found, **_scaling(file)}

    return qwen


def _gemma3(file: GgufFile) -> dict[str, Any]:
    """Each sixth layer reads all; in bfloat16, as float16 does not hold its hidden states."""
    layers = file.count("block_count")
    kinds = ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(layers)]
    if file.get("rope.scaling.type", "none") != "none":
        raise file.refuse("rope.scaling.type is not converted for gemma3", "use a safetensors checkpoint")
    heads, width = file.count("attention.head_count"), file.count("embedding_length")
    scale = width // heads if layers == 62 else file.count("attention.key_length")  # only the largest differs
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "dtype": "bfloat16",
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "sliding_window": file.count("attention.sliding_window"),
        "layer_types": kinds,
        "query_pre_attn_scalar": scale,
        "rope_local_base_freq": 10000.0,
    }


def _scaling(file: GgufFile) -> dict[str, Any]:
    """How rotary positions are stretched: not, evenly, or as Llama 3 does, whose factors are a tensor."""
    kind = file.get("rope.scaling.type", "none")
    if _ROPE_FACTORS in file.tensors:
        return {"rope_scaling": _llama3(file)}
    if kind == "none":
        return {}
    if kind == "linear":
        return {"rope_scaling": {"rope_type": "linear", "factor": float(file.get("rope.scaling.factor"))}}
    raise file.refuse(f"rope.scaling.type {kind!r:.40} is not converted", "use a safetensors checkpoint")


def _llama3(file: GgufFile) -> dict[str, Any]:
    """The constants of Llama 3 that give these factors; others are refused."""
    found = file.numbers(_ROPE_FACTORS)
    factor, size = float(found.max()), 2 * len(found)
    base = float(file.get("rope.freq_base", 10000.0))
    waves = 2 * np.pi * base ** (np.arange(0, size, 2) / size)
    low, high, length = _LLAMA3.values()
    share = np.clip((length / waves - low) / (high - low), 0, 1)
    if not np.allclose(found, 1 / ((1 - share) / factor + share), rtol=1e-3):
        raise file.refuse(f"{_ROPE_FACTORS} holds factors that are not Llama 3's", "use a safetensors checkpoint")
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3}


FAMILIES: Mapping[str, Callable[[GgufFile], dict[str, Any]]] = {
    "llama": _llama,
    "qwen2": _qwen("2"),
    "qwen3": _qwen("3"),
    "gemma3": _gemma3,
}
