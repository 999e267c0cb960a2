"""Decode attention on the host at the speed of its memory: a C++ kernel compiled on first use.

Letters as in `attention`: G grains (sequence x KV head), P query heads that share a KV head, C context, H head_dim.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from flexplan.packing import Packing
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
    if not supports(q_GPH, k_GCH, v_GCH, out_GPH):
        return False
    size = q_GPH.element_size()
    strides = [stride * size for x in (k_GCH, v_GCH) for stride in x.stride()[:2]]
    return _attend(q_GPH, k_GCH, v_GCH, strides, None, pads_G, scale, 1.0, out_GPH, num_threads)


def grain_attention_packed_host(
    q_GPH: Tensor,
    packed_G2CV: Tensor,
    packing: Packing,
    pads_G: Tensor | None,
    scale: float,
    out_GPH: Tensor,
    num_threads: int,
) -> bool:
    """The same over packed keys and values, (G, 2, C, bytes of a vector), unpacked a block at a time.

    What a code stands for is not rounded to the model's dtype in between.
    """
    return sparse_attention_host(q_GPH, packed_G2CV, packing, pads_G, scale, 1.0, out_GPH, num_threads)


def sparse_attention_host(
    q_GPH: Tensor,
    pairs_G2CH: Tensor,
    packing: Packing | None,
    pads_G: Tensor | None,
    scale: float,
    sparsity: float,
    out_GPH: Tensor,
    num_threads: int,
) -> bool:
    """The same over either kind of cache; below 1, only the values that `sparseattention` keeps are read."""
    k, v = pairs_G2CH.unbind(1)
    if not supports(q_GPH, out_GPH, *([k, v] if packing is None else [])):
        return False
    if packing is not None and (pairs_G2CH.device.type != "cpu" or pairs_G2CH.stride(-1) != 1):
        return False
    layout = None
    if packing is not None:
        layout = FOUR(packing.num_bits, packing.group_size, packing.symmetric, packing.vector_bytes(q_GPH.shape[-1]))
    size = pairs_G2CH.element_size()
    strides = [stride * size for x in (k, v) for stride in x.stride()[:2]]
    return _attend(q_GPH, k, v, strides, layout, pads_G, scale, sparsity, out_GPH, num_threads)


def _attend(
    q_GPH: Tensor, k: Tensor, v: Tensor, cache_strides: list[int], layout: Any, pads_G: Tensor | None, scale: float,
    sparsity: float, out_GPH: Tensor, num_threads: int,
) -> bool:  # fmt: skip
    """Strides of the cache in bytes."""
    kernel = _kernel()
    if kernel is None:
        return False
    (G, P, H), C = q_GPH.shape, k.shape[1]
    if G == 0:
        return True
    pads = None if pads_G is None else pads_G.to(torch.int64).contiguous()
    failed = kernel(
        DTYPES[q_GPH.dtype],
        q_GPH.data_ptr(),
        k.data_ptr(),
        v.data_ptr(),
        None if pads is None else pads.data_ptr(),
        out_GPH.data_ptr(),
        FOUR(G, P, H, C),
        EIGHT(*q_GPH.stride()[:2], *cache_strides, *out_GPH.stride()[:2]),
        layout,
        scale,
        sparsity,
        max(1, num_threads),
    )
    return not failed


def supports(q_GPH: Tensor, *others: Tensor) -> bool:
    """Whether the kernel is written for these tensors."""
    tensors, head_dim = (q_GPH, *others), q_GPH.shape[-1]
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
    kernel.argtypes = [ctypes.c_int, *[pointer] * 5, FOUR, EIGHT, pointer]
    kernel.argtypes += [ctypes.c_float, ctypes.c_double, ctypes.c_int64]
    kernel.restype = ctypes.c_int
    return kernel
