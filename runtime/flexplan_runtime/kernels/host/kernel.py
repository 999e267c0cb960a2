"""The kernel called: on which memory, in which types, and whether it is written for them.

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
from flexplan_runtime.kernels.host.pages import Pages

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
LARGEST_HEAD_DIM = 256
FOUR, FIVE, SIX = ctypes.c_int64 * 4, ctypes.c_int64 * 5, ctypes.c_int64 * 6


class GrainAttention:
    """The kernel on memory that stays where it is: new positions of each grain over its context, into ``out``.

    Queries and results are (G, P, H) for one new token, or (G, N, P, H) for the last N of the context, each of which
    sees none behind itself.  Keys and values are (G, 2, C, H), or packed, (G, 2, C, bytes of a vector), or `Pages` of
    either; what a code stands for is not rounded to the model's dtype.  ``pads`` (at most the context less N) counts
    the leading tokens of each grain that are not read.  ``sinks`` are scores that take weight and have no value.  Below
    a sparsity of 1, only the values that sparse attention keeps are read.  Any strides, as long as the last axis is
    contiguous.  Calls from several threads run one after the other.
    """

    def __init__(
        self, q: Tensor, pairs: Tensor | Pages, pads_G: Tensor | None, scale: float, out: Tensor, num_threads: int,
        packing: Packing | None = None, sparsity: float = 1.0, sinks_GP: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Work out the kernel's arguments."""
        pages = pairs if isinstance(pairs, Pages) else Pages.of([pairs])
        q_GNPH, out_GNPH = (x if x.dim() == 4 else x.unsqueeze(1) for x in (q, out))
        pads = None if pads_G is None else pads_G.to(torch.int64).contiguous()
        sinks = None if sinks_GP is None else sinks_GP.to(torch.float32).contiguous()
        self._used = q, pages, pads, sinks, out  # what the addresses belong to
        self._supported = supports(q_GNPH, pages, out_GNPH, packing)
        (G, N, P, H), self._tokens, layout = q_GNPH.shape, pages.tokens, None
        self._shape = FIVE(G, N, P, H, self._tokens)
        if packing is not None:
            layout = FOUR(packing.num_bits, packing.group_size, packing.symmetric, packing.vector_bytes(H))
        self._arguments = (
            DTYPES.get(q.dtype), q.data_ptr(), pages.addresses_2RI.data_ptr(),
            *(None if x is None else x.data_ptr() for x in (pads, sinks)), out.data_ptr(), self._shape,
            SIX(*q_GNPH.stride()[:3], *out_GNPH.stride()[:3]), SIX(*pages.layout), layout,
            scale, sparsity, max(1, num_threads),
        )  # fmt: skip

    def __call__(self, context: int | None = None) -> bool:
        """Over the first ``context`` tokens, or all; False, with nothing done, where the kernel cannot."""
        kernel = _kernel() if self._supported else None
        if kernel is None:
            return False
        self._shape[4] = self._tokens if context is None else context
        assert self._shape[1] <= self._shape[4] <= self._tokens, "the context holds the new tokens, pages the context"
        return self._shape[0] == 0 or not kernel(*self._arguments)


def supports(q_GNPH: Tensor, pages: Pages, out_GNPH: Tensor, packing: Packing | None) -> bool:
    """Whether the kernel is written for these tensors."""
    head_dim, dtype = q_GNPH.shape[-1], torch.uint8 if packing else q_GNPH.dtype
    return (
        q_GNPH.dtype in DTYPES
        and head_dim % 16 == 0
        and 0 < head_dim <= LARGEST_HEAD_DIM
        and out_GNPH.dtype == q_GNPH.dtype
        and all(page.dtype == dtype for page in pages.memory)
        and all(t.device.type == "cpu" and t.stride(-1) == 1 for t in (q_GNPH, *pages.memory, out_GNPH))
    )


def uses_tiles() -> bool:
    """Whether the kernel computes in AMX tiles: the processor, the compiler and the system have them."""
    found = library()
    return found is not None and bool(found.flexplan_uses_tiles())


@lru_cache(maxsize=1)
def _kernel() -> Any:
    """The C function, or None."""
    found = library()
    if found is None:
        return None
    kernel = found.flexplan_grain_attention
    pointer = ctypes.c_void_p
    kernel.argtypes = [ctypes.c_int, *[pointer] * 5, FIVE, SIX, SIX, pointer]
    kernel.argtypes += [ctypes.c_float, ctypes.c_double, ctypes.c_int64]
    kernel.restype = ctypes.c_int
    return kernel
