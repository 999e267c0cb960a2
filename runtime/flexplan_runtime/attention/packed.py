"""Attention of one new position over a packed cache, wherever it lies; never more than a block of it is unpacked.

Letters as in `attention`, and V the bytes of a packed vector.  A cache is (G, 2, T, V) uint8 in any strides but the
last.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flexplan.model import Packing
from flexplan_runtime.attention.dense import grain_attention
from flexplan_runtime.attention.ring import unrolled
from flexplan_runtime.attention.scored import BLOCK
from flexplan_runtime.kernels.availability import compiles_for
from flexplan_runtime.kernels.quantisation import unpack_vectors


def decode_attention_packed(
    q_GPH: Tensor, packed_G2TV: Tensor, packing: Packing, pads_G: Tensor, position: Tensor, scale: float
) -> Tensor:
    """One new position of each grain over tokens ``pads .. position`` of its packed keys and values, (G, P, H)."""
    if compiles_for(q_GPH):
        from flexplan_runtime.kernels.packed_decode_attention import decode_attention_packed_cuda

        return decode_attention_packed_cuda(q_GPH, packed_G2TV, packing, pads_G, position, scale)
    packed_G2TV, pads_G = unrolled(packed_G2TV, pads_G, int(position) + 1)
    return by_blocks(q_GPH, packed_G2TV, packing, pads_G, scale)


def by_blocks(q_GPH: Tensor, packed_G2TV: Tensor, packing: Packing, pads_G: Tensor, scale: float) -> Tensor:
    """By the framework's kernel, some grains unpacked at a time, (G, P, H)."""
    size, out = q_GPH.shape[-1], torch.empty_like(q_GPH)
    step = max(1, BLOCK // (2 * packed_G2TV.shape[2] * size))
    for first in range(0, len(q_GPH), step):
        part = slice(first, first + step)
        k, v = unpack_vectors(packed_G2TV[part], packing, size, q_GPH.dtype).unbind(1)
        out[part] = grain_attention(q_GPH[part], k, v, pads_G[part], scale)
    return out
