"""Decode attention on the host at the speed of its memory: a C++ kernel compiled on first use.

vectors.hpp    Vectors of float32 from float32, bfloat16 or float16.
codes.hpp      One query head against packed vectors, straight from their codes.
rows.hpp       Rows of keys and values: as they lie, or unpacked into scratch.
pool.hpp       Threads that wait for work.
attention.cpp  Decode attention over grains, one pass over keys and values.
build          Compiles the kernel on first use and keeps it in the user's cache.

Letters as in `attention`: G grains (sequence x KV head), P query heads that share a KV head, C context, H head_dim.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from flexplan.model import Packing
from flexplan_runtime.kernels.host.build import library

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
LARGEST_HEAD_DIM = 256
FOUR, EIGHT = ctypes.c_int64 * 4, ctypes.c_int64 * 8


class GrainAttention:
    """The kernel on memory that stays where it is: one new position of each grain over its context, into ``out``.

    Keys and values are (G, 2, C, H), or packed, (G, 2, C, bytes of a vector): those are unpacked a block at a time,
    and what a code stands for is not rounded to the model's dtype.  ``pads`` (each less than the context) counts the
    leading tokens of each grain that are not read.  Below a sparsity of 1, only the values that `sparseattention`
    keeps are read.  Any strides, as long as the last axis is contiguous.  Calls from several threads run one after
    the other.
    """

    def __init__(
        self, q_GPH: Tensor, pairs_G2CH: Tensor, pads_G: Tensor | None, scale: float, out_GPH: Tensor, num_threads: int,
        packing: Packing | None = None, sparsity: float = 1.0,
    ) -> None:  # fmt: skip
        """Work out the kernel's arguments."""
        k, v = pairs_G2CH.unbind(1)
        pads = None if pads_G is None else pads_G.to(torch.int64).contiguous()
        self._used = q_GPH, pairs_G2CH, pads, out_GPH  # what the addresses belong to
        self._supported = supports(q_GPH, pairs_G2CH, out_GPH, packing)
        (G, P, H), C, size = q_GPH.shape, k.shape[1], pairs_G2CH.element_size()
        self._shape, layout = FOUR(G, P, H, C), None
        if packing is not None:
            layout = FOUR(packing.num_bits, packing.group_size, packing.symmetric, packing.vector_bytes(H))
        strides = [stride * size for x in (k, v) for stride in x.stride()[:2]]
        self._arguments = (
            DTYPES.get(q_GPH.dtype), q_GPH.data_ptr(), k.data_ptr(), v.data_ptr(),
            None if pads is None else pads.data_ptr(), out_GPH.data_ptr(), self._shape,
            EIGHT(*q_GPH.stride()[:2], *strides, *out_GPH.stride()[:2]), layout, scale, sparsity, max(1, num_threads),
        )  # fmt: skip

    def __call__(self, context: int | None = None) -> bool:
        """Over the first ``context`` tokens, or all; False, with nothing done, where the kernel cannot."""
        kernel = _kernel() if self._supported else None
        if kernel is None:
            return False
        self._shape[3] = self._used[1].shape[2] if context is None else context
        return self._shape[0] == 0 or not kernel(*self._arguments)


def supports(q_GPH: Tensor, pairs_G2CH: Tensor, out_GPH: Tensor, packing: Packing | None) -> bool:
    """Whether the kernel is written for these tensors."""
    head_dim, dtype = q_GPH.shape[-1], torch.uint8 if packing else q_GPH.dtype
    return (
        q_GPH.dtype in DTYPES
        and head_dim % 16 == 0
        and 0 < head_dim <= LARGEST_HEAD_DIM
        and (out_GPH.dtype, pairs_G2CH.dtype) == (q_GPH.dtype, dtype)
        and all(t.device.type == "cpu" and t.stride(-1) == 1 for t in (q_GPH, pairs_G2CH, out_GPH))
    )


@lru_cache(maxsize=1)
def _kernel() -> Any:
    """The C function, or None."""
    found = library()
    if found is None:
        return None
    kernel = found.flexplan_grain_attention
    pointer = ctypes.c_void_p
    kernel.argtypes = [ctypes.c_int, *[pointer] * 5, FOUR, EIGHT, pointer]
    kernel.argtypes += [ctypes.c_float, ctypes.c_double, ctypes.c_int64]
    kernel.restype = ctypes.c_int
    return kernel
