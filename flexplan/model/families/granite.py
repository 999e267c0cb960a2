"""The ``config.json`` of Granite: Llama with four multipliers."""

from __future__ import annotations

from flexplan.model.constants import ModelConstants
from flexplan.model.families.keys.fields import Fields
from flexplan.model.families.keys.rotary import read_rotary
from flexplan.model.families.llama import LLAMA
from flexplan.model.shape import ModelShape

GRANITE = LLAMA | {
    "embedding_multiplier": 1.0,
    "logits_scaling": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": 1.0,
}


def read_granite(f: Fields, name: str) -> tuple[ModelShape, ModelConstants]:
    """Token rows, attention, what a block adds and the logits each have a factor."""
    math = {
        "embed_scale": f.number("embedding_multiplier"),
        "residual_scale": f.number("residual_multiplier"),
        "attention_scale": f.number("attention_multiplier"),
        "logits_scale": 1 / f.number("logits_scaling"),
    }
    return read_rotary(f, name, math=math)
