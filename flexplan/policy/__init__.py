"""Policies: what a planner decides.

blocks  Which prompts run together: blocks and micro-batches.
lossy   The policy fields that change tokens, and which of them a user allowed.
policy  `Policy` and `CompressionConfig`: every field, strict.
rooms   How long a request each micro-batch of a rolling schedule has a seat for.
"""

from flexplan.policy.blocks import Block, BlockKind, block_kinds, few_kinds, fill_block, fill_blocks, full_block
from flexplan.policy.lossy import allowed_fields, lossy_fields, names_of
from flexplan.policy.policy import (
    POLICY_VERSION,
    CompressionConfig,
    Policy,
    check_version,
    field_names,
    read_strict_json,
)
from flexplan.policy.rooms import need_of, rolling_block, stretch_of

__all__ = [
    "POLICY_VERSION",
    "Block",
    "BlockKind",
    "CompressionConfig",
    "Policy",
    "allowed_fields",
    "block_kinds",
    "check_version",
    "few_kinds",
    "field_names",
    "fill_block",
    "fill_blocks",
    "full_block",
    "lossy_fields",
    "names_of",
    "need_of",
    "read_strict_json",
    "rolling_block",
    "stretch_of",
]
