"""The `quantization_config` of compressed-tensors: FP8, and whole numbers packed into 32 bits."""

from __future__ import annotations

from typing import cast

from flexplan.model.coding import Code, Coding, Scale, StoredFormat
from flexplan.model.formats.given import Given

_WHOLE = 0  # rows of a matrix that share a scale: all


def read_compressed(given: Given) -> StoredFormat:
    """One group of all linear layers; what is said of activations is left to those who quantise them."""
    given.ignore("quantization_status", "global_compression_ratio", "version", "run_compressed")
    form = given.one_of("format", ("float-quantized", "naive-quantized", "pack-quantized"))
    groups = given.get("config_groups")
    if not isinstance(groups, dict) or len(groups) != 1:
        raise given.refuse("config_groups", groups, "one group")
    group = given.part("config_groups", next(iter(groups.values())))
    group.ignore("input_activations")
    group.one_of("format", (form,), form)
    if group.names("targets") != ("Linear",):
        raise group.refuse("targets", group.values.get("targets"), "[Linear]")
    weights = group.part("weights", group.get("weights"))
    found = _packed(weights) if form == "pack-quantized" else _floats(weights)
    weights.ignore("observer", "observer_kwargs", "scale_dtype", "zp_dtype")
    weights.one_of("dynamic", (False,), False)
    weights.one_of("actorder", ("weight", "static", False), False)  # found in another order, stored in this one
    weights.close()
    group.close()
    return found


def _floats(weights: Given) -> StoredFormat:
    """FP8, a scale for the matrix, a row or a block."""
    weights.one_of("type", ("float",))
    weights.one_of("num_bits", (8,))
    weights.one_of("symmetric", (True,), True)
    strategy = weights.one_of("strategy", ("tensor", "channel", "block"))
    rows, cols = {"tensor": _WHOLE, "channel": 1}.get(strategy, 0), 0
    block = weights.get("block_structure")
    if strategy == "block":
        if not isinstance(block, list) or len(block) != 2 or not all(type(n) is int and 0 < n <= 4096 for n in block):
            raise weights.refuse("block_structure", block, "two counts")
        rows, cols = block
    coding = Coding("e4m3", cast(Scale, weights.scale), cols)
    return StoredFormat(name=f"fp8, a scale a {strategy}", layout="fp8", coding=coding, scale_rows=rows)


def _packed(weights: Given) -> StoredFormat:
    """W4A16 and W8A16, a scale for a row or for a group of it."""
    weights.one_of("type", ("int",))
    bits = weights.one_of("num_bits", (4, 8))
    zeros = not weights.one_of("symmetric", (True, False), True)
    strategy = weights.one_of("strategy", ("group", "channel"))
    group = weights.group("group_size", -1)
    if (strategy == "group") != bool(group):
        raise weights.refuse("group_size", weights.values.get("group_size"), f"what the strategy {strategy} needs")
    coding = Coding(cast(Code, f"uint{bits}"), cast(Scale, weights.scale), group, zeros)
    return StoredFormat(name=f"packed, {bits} bits", layout="packed", coding=coding)
