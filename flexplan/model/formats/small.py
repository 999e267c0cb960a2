"""The `quantization_config` of small floats: FP8 as DeepSeek-V3 and Qwen3 publish it, and the MXFP4 of gpt-oss."""

from __future__ import annotations

from typing import cast

from flexplan.model.coding import Coding, Scale, StoredFormat
from flexplan.model.formats.given import MOST_GROUP, Given


def read_fp8(given: Given) -> StoredFormat:
    """FP8 with a scale for a block (`weight_block_size`), else for a whole matrix.

    What is said of activations is left to those who compute in FP8: here they stay in 16 bits.
    """
    given.ignore("activation_scheme", "scale_fmt")
    given.one_of("fmt", ("e4m3", "float8_e4m3fn"), "e4m3")
    given.one_of("expert_dtype", ("fp8",), "fp8")
    rows, cols = _block(given)
    return StoredFormat(
        name="fp8" + (f", {rows} x {cols} blocks" if rows else ""),
        layout="fp8",
        coding=Coding("e4m3", cast(Scale, given.scale), cols),
        scale_rows=rows,
    )


def read_mxfp4(given: Given) -> StoredFormat:
    """MXFP4: the experts' matrices in 4 bits, 32 columns sharing a power of two."""
    return StoredFormat(name="mxfp4", layout="mxfp4", coding=Coding("e2m1", "e8m0", 32))


def _block(given: Given) -> tuple[int, int]:
    """Rows and columns of a block, 0 x 0 for the whole matrix."""
    block = given.get("weight_block_size")
    if block is None:
        return 0, 0
    if not isinstance(block, list) or len(block) != 2 or not all(_is_size(n) for n in block):
        raise given.refuse("weight_block_size", block, "two counts")
    return block[0], block[1]


def _is_size(n: object) -> bool:
    return type(n) is int and 0 < n <= MOST_GROUP
