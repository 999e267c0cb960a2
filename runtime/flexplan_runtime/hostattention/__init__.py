"""Decode attention on the host at the speed of its memory: a C++ kernel compiled on first use.

Letters as in `attention`: G grains (sequence x KV head), P query heads that share a KV head, C context, H head_dim.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from flexplan_runtime.hostattention.build import library

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
LARGEST_HEAD_DIM = 256
FOUR, EIGHT = ctypes.c_int64 * 4, ctypes.c_int64 * 8


def grain_attention_host(
    q_GPH: Tensor,
    k_GCH: Tensor,
    v_GCH: Tensor,
    pads_G: Tensor | None,
    scale: float,
    out_GPH: Tensor,
    num_threads: int,
) -> bool:
    """One new position over its context, into ``out``; False, with nothing done, where the kernel cannot.

    ``pads`` (int32 or int64, each less than C) counts the leading tokens of each grain that are not read.
    Any strides, as long as head_dim is contiguous.  Calls from several threads run one after the other.
    """
    kernel = _kernel() if supports(q_GPH, k_GCH, v_GCH, out_GPH) else None
    if kernel is None:
        return False
    (G, P, H), C = q_GPH.shape, k_GCH.shape[1]
    if G == 0:
        return True
    pads = None if pads_G is None else pads_G.to(torch.int64).contiguous()
    strides = [stride for tensor in (q_GPH, k_GCH, v_GCH, out_GPH) for stride in tensor.stride()[:2]]
    failed = kernel(
        DTYPES[q_GPH.dtype],
        q_GPH.data_ptr(),
        k_GCH.data_ptr(),
        v_GCH.data_ptr(),
        None if pads is None else pads.data_ptr(),
        out_GPH.data_ptr(),
        FOUR(G, P, H, C),
        EIGHT(*strides),
        scale,
        max(1, num_threads),
    )
    return not failed


def supports(q_GPH: Tensor, k_GCH: Tensor, v_GCH: Tensor, out_GPH: Tensor) -> bool:
    """Whether the kernel is written for these tensors."""
    tensors, head_dim = (q_GPH, k_GCH, v_GCH, out_GPH), q_GPH.shape[-1]
    return (
        q_GPH.dtype in DTYPES
        and head_dim % 16 == 0
        and 0 < head_dim <= LARGEST_HEAD_DIM
        and all(t.dtype == q_GPH.dtype and t.device.type == "cpu" and t.stride(-1) == 1 for t in tensors)
    )


@lru_cache(maxsize=1)
def _kernel() -> Any:
    """The C function, or None."""
    found = library()
    if found is None:
        return None
    kernel = found.flexplan_grain_attention
    pointer = ctypes.c_void_p
    kernel.argtypes = [ctypes.c_int, *[pointer] * 5, FOUR, EIGHT, ctypes.c_float, ctypes.c_int64]
    kernel.restype = ctypes.c_int
    return kernel
