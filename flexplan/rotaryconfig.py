"""The ``config.json`` of Llama and those like it: rotary positions, gated MLPs, sliding windows, experts.

Both dialects are read: transformers 4 (``rope_theta``, ``rope_scaling``) and transformers 5 (``rope_parameters``).
"""

from __future__ import annotations

from typing import Any

from flexplan.configkeys import Fields, positive
from flexplan.errors import ModelFilesError
from flexplan.limits import MOST_LAYERS
from flexplan.modelmath import ModelMath, RopeScaling
from flexplan.shapes import ModelShape


def read_rotary(f: Fields, name: str) -> tuple[ModelShape, ModelMath]:
    """Sizes and constants of a Llama, Mistral, Mixtral or Qwen model."""
    heads, kv_heads, head_dim = f.heads()
    if head_dim % 2:
        raise ModelFilesError(
            "FP506", f"{f.where}: head_dim is {head_dim}, rotary positions need a multiple of 2", fix="correct head_dim"
        )
    experts, experts_per_token = _experts(f)
    window, positions = _window(f), f.count("max_position_embeddings")
    shape = ModelShape(
        name=name,
        family=f.family,
        num_layers=f.count("num_hidden_layers", MOST_LAYERS),
        hidden_size=f.count("hidden_size"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        ffn_size=f.count("intermediate_size"),
        gated=True,
        vocab_size=f.count("vocab_size"),
        embed_size=f.count("hidden_size"),
        tied_embeddings=f.flag("tie_word_embeddings"),
        positions="rotary",
        max_positions=min(positions, window or positions),
        norm="rms",
        qkv_bias=f.family == "qwen2" or f.flag("attention_bias"),
        out_bias=f.flag("attention_bias"),
        mlp_bias=f.flag("mlp_bias"),
        qk_norm=f.family == "qwen3",
        num_experts=experts,
        experts_per_token=experts_per_token,
        bytes_per_element=f.bytes_per_element(),
    )
    theta, scaling = _rope(f)
    return shape, f.math(
        shape,
        activation=f.activation("hidden_act"),
        norm_eps=f.number("rms_norm_eps"),
        rope_theta=theta,
        rope_scaling=scaling,
        sliding_window=window if window and window < positions else None,
    )


def _experts(f: Fields) -> tuple[int, int]:
    """Experts of a layer and those that a token uses; none where the family has none."""
    if f.family != "mixtral":
        return 0, 0
    experts = f.count("num_local_experts", MOST_LAYERS)
    return experts, f.count("num_experts_per_tok", experts)


def _window(f: Fields) -> int | None:
    """The sliding window in tokens, None where the family or the config uses none."""
    layers = f.values.get("layer_types") or []
    if not isinstance(layers, list) or any(kind not in ("full_attention", "sliding_attention") for kind in layers):
        raise f.wrong("layer_types", "a list of full_attention and sliding_attention")
    used = "use_sliding_window" not in f.values or f.flag("use_sliding_window")
    if "sliding_attention" in layers and not used:
        raise f.wrong("layer_types", "full_attention only, as use_sliding_window is false")
    return f.count("sliding_window") if used and "sliding_window" in f else None


def _rope(f: Fields) -> tuple[float, RopeScaling | None]:
    """Base and scaling of the rotary frequencies, from either dialect."""
    key = "rope_scaling" if f.values.get("rope_scaling") else "rope_parameters"
    table = f.values.get(key) or {}
    if not isinstance(table, dict):
        raise f.wrong(key, "an object")
    table = {"rope_theta": f.values["rope_theta"], "partial_rotary_factor": f.values["partial_rotary_factor"]} | table
    if table["partial_rotary_factor"] not in (None, 1, 1.0):
        raise ModelFilesError(
            "FP504",
            f"{f.where}: partial_rotary_factor is {table['partial_rotary_factor']!r}, supported is 1",
            fix="use a model whose heads rotate whole",
        )
    return positive(table["rope_theta"], "rope_theta", f.where), _scaling(f, table)


def _scaling(f: Fields, table: dict[str, Any]) -> RopeScaling | None:
    kind = table.get("rope_type", table.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(type="linear", factor=positive(table.get("factor"), "rope factor", f.where))
    if kind != "llama3":
        raise ModelFilesError(
            "FP504",
            f"{f.where}: rope_type is {kind!r}, supported are default, linear, llama3",
            fix="remove the scaling to run within the trained length, or use another model",
        )
    factor, low, high = (
        positive(table.get(k), f"rope {k}", f.where) for k in ("factor", "low_freq_factor", "high_freq_factor")
    )
    if low >= high:
        raise ModelFilesError(
            "FP506", f"{f.where}: low_freq_factor {low} is not below high_freq_factor {high}", fix="correct either"
        )
    original = table.get("original_max_position_embeddings", f.count("max_position_embeddings"))
    if type(original) is not int or original < 1:
        message = f"{f.where}: original_max_position_embeddings is {original!r}, allowed is a whole number from 1"
        raise ModelFilesError("FP503", message, fix="correct it")
    return RopeScaling(
        type="llama3",
        factor=factor,
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_positions=original,
    )
