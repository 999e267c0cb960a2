"""The ``config.json`` of StarCoder2: Llama with layer norms, biases everywhere and a feed-forward without a gate."""

from __future__ import annotations

from flexplan.model.constants import ModelConstants
from flexplan.model.families.keys.fields import Fields
from flexplan.model.families.keys.names import LLAMA, renamed
from flexplan.model.families.keys.rotary import DEFAULTS, read_rotary
from flexplan.model.shape import ModelShape

STARCODER2 = {k: v for k, v in DEFAULTS.items() if k != "rms_norm_eps"} | {
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 4096,
    "num_key_value_heads": 2,
    "norm_epsilon": 1e-5,
    "use_bias": True,
    "tie_word_embeddings": True,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
}

NAMES = renamed(LLAMA, up="mlp.c_fc", down="mlp.c_proj")


def read_starcoder2(f: Fields, name: str) -> tuple[ModelShape, ModelConstants]:
    """All layers slide, where there is a window."""
    biased = f.flag("use_bias")
    shape = {
        "gated": False,
        "norm": "layer",
        "norm_bias": True,
        "qkv_bias": biased,
        "out_bias": biased,
        "mlp_bias": biased,
    }
    windows = f.windows(slides=True, always=True)
    return read_rotary(f, name, windows=windows, shape=shape, math={"norm_eps": f.number("norm_epsilon")})
