"""OPT's ``config.json``: learned positions, layer norms, biases that can be switched off."""

from __future__ import annotations

from flexplan.configkeys import MOST_LAYERS, Fields
from flexplan.errors import ModelFilesError
from flexplan.modelmath import ModelMath
from flexplan.shapes import ModelShape


def read_opt(f: Fields, name: str) -> tuple[ModelShape, ModelMath]:
    """Sizes and constants of an OPT model."""
    heads, kv_heads, head_dim = f.heads()
    pre_norm, biased, affine = (
        f.flag(k) for k in ("do_layer_norm_before", "enable_bias", "layer_norm_elementwise_affine")
    )
    embed_key = "word_embed_proj_dim" if "word_embed_proj_dim" in f else "hidden_size"
    positions, window = f.count("max_position_embeddings"), f.window()
    if window is not None and window < positions:
        message = f"{f.where}: layers read {window} of {positions} positions, supported are OPT models that read all"
        raise ModelFilesError("FP504", message, fix="remove sliding_window, attention_chunk_size and layer_types")
    shape = ModelShape(
        name=name,
        family="opt",
        num_layers=f.count("num_hidden_layers", MOST_LAYERS),
        hidden_size=f.count("hidden_size"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        ffn_size=f.count("ffn_dim"),
        gated=False,
        vocab_size=f.count("vocab_size"),
        embed_size=f.count(embed_key),
        tied_embeddings=f.flag("tie_word_embeddings"),
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
        bytes_per_element=f.bytes_per_element(),
    )
    return shape, f.math(shape, activation=f.activation("activation_function"), norm_eps=1e-5)
