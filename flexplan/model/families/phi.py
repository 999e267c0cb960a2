"""The ``config.json`` of Phi-3, Phi-3.5, Phi-4 and Phi-4-mini."""

from __future__ import annotations

from flexplan.model.constants import ModelConstants
from flexplan.model.families.keys.fields import Fields
from flexplan.model.families.keys.names import LLAMA, renamed
from flexplan.model.families.keys.rope import read_rope, rope_table
from flexplan.model.families.keys.rotary import DEFAULTS, read_rotary
from flexplan.model.shape import ModelShape

PHI3 = DEFAULTS | {
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
    "bos_token_id": 1,
    "eos_token_id": 32000,
    "pad_token_id": 32000,
}

NAMES = renamed(LLAMA, qkv="self_attn.qkv_proj", gate_up="mlp.gate_up_proj")


def read_phi3(f: Fields, name: str) -> tuple[ModelShape, ModelConstants]:
    """Llama that may turn a part of each head, stretches it by factors of its own, and whose layers may slide.

    A sequence that grows past the original context goes on with the keys it has; transformers computes them anew.
    """
    _, _, head_dim = f.heads()
    original = "original_max_position_embeddings"
    table = {original: f.values[original], **rope_table(f)}
    kind = table.get("rope_type", table.get("type", "default"))
    if kind in ("su", "yarn"):  # older names of the same
        kind = "longrope"
    if kind not in ("default", "longrope"):
        raise f.wrong("rope_scaling", "of type longrope")
    rope = read_rope(f, head_dim, partial=True, given=table | {"rope_type": kind})
    return read_rotary(f, name, windows=f.windows(slides=True, always=True), rope=rope)
