"""The ``config.json`` of OLMo 2: norms over what a block adds, and over all heads of queries and keys together."""

from __future__ import annotations

from flexplan.model.constants import ModelConstants
from flexplan.model.families.keys.fields import Fields
from flexplan.model.families.keys.names import LLAMA as LLAMA_NAMES
from flexplan.model.families.keys.names import renamed
from flexplan.model.families.keys.rotary import read_rotary
from flexplan.model.families.llama import LLAMA
from flexplan.model.shape import ModelShape

OLMO2 = {k: v for k, v in LLAMA.items() if k != "mlp_bias"} | {
    "rms_norm_eps": 1e-5,
    "bos_token_id": None,
    "eos_token_id": 50279,
    "pad_token_id": 1,
}

NAMES = renamed(
    LLAMA_NAMES, attention_added_norm="post_attention_layernorm", mlp_added_norm="post_feedforward_layernorm"
)


def read_olmo2(f: Fields, name: str) -> tuple[ModelShape, ModelConstants]:
    """No norm before a block."""
    shape = {"pre_norm": False, "added_norm": True, "qk_norm": True, "qk_norm_whole": True}
    return read_rotary(f, name, shape=shape, math={"norm_in_float": True})
