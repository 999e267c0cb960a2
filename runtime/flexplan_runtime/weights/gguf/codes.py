"""GGUF's blocks whose codes are kept: Q8_0 and Q4_0, 32 columns that share a float16, as compressed-tensors lays them.

Q8_0   scale, 32 signed bytes
Q4_0   scale, 16 bytes: element i in the low half of byte i, element i + 16 in the high half; 8 is zero
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexplan_runtime.weights.gguf.file import GgufFile

_BITS = {"Q8_0": 8, "Q4_0": 4}
_GROUP = 32
Array = np.ndarray[Any, Any]


def kept_bits(file: GgufFile, names: Iterable[str]) -> int | None:
    """Bits of the codes of these matrices, where all are of one type that is kept."""
    types = {file.tensors[name].tensor_type.name for name in names}
    return _BITS.get(types.pop()) if len(types) == 1 else None


def config_of_codes(bits: int) -> dict[str, Any]:
    """The `quantization_config` of kept codes."""
    weights = {"num_bits": bits, "type": "int", "strategy": "group", "group_size": _GROUP, "symmetric": True}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
    }


def blocks_of(file: GgufFile, name: str) -> Array:
    """The bytes of a matrix, a row of it a row."""
    data = np.asarray(file.tensors[name].data)
    return data.reshape(-1, data.shape[-1]).view(np.uint8)


def coded(name: str, blocks: Array, bits: int) -> dict[str, Tensor]:
    """The tensors of a matrix whose rows are these blocks."""
    rows = len(blocks)
    grouped = blocks.reshape(rows, -1, 2 + _GROUP * bits // 8)
    scales = np.ascontiguousarray(grouped[..., :2]).view(np.float16)[..., 0]
    codes = grouped[..., 2:]
    if bits == 8:
        codes = codes ^ 0x80  # signed around 0 is unsigned around 128
    else:
        elements = np.concatenate((codes & 15, codes >> 4), -1)
        codes = elements[..., ::2] | elements[..., 1::2] << 4
    packed = np.ascontiguousarray(codes.reshape(rows, -1)).view(np.int32)
    return {
        f"{name}_packed": torch.from_numpy(packed),
        f"{name}_scale": torch.from_numpy(np.ascontiguousarray(scales)),
        f"{name}_shape": torch.tensor([rows, grouped.shape[1] * _GROUP]),
    }
