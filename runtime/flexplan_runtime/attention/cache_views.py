"""Views of the KV cache: bytes of a slot as keys and values.

By grain: a grain's keys are contiguous over its tokens, as attention reads them; axes (grain, key or value,
token, head_dim).  By token: a token's grains are contiguous, as the disk appends and reads them; a view with
the same axes and other strides.  Grains whose home is the disk stay by token wherever they travel.
Where the cache is packed, its elements are bytes and "head_dim" is the bytes of a packed vector.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flexplan.placement import Segment
from flexplan_runtime.kernels.availability import compiles_for


def by_grain(
    data: Tensor, segment: Segment, grains: int, tokens: int, dtype: torch.dtype, parts: int | None = None
) -> Tensor:
    """(grains, parts, tokens, head_dim) of bytes; with one part, keys alone, or what is key and value."""
    parts = segment.vectors if parts is None else parts
    width = segment.vector_bytes // dtype.itemsize
    return data.view(dtype)[: grains * parts * tokens * width].view(grains, parts, tokens, width)


def token_rows(data: Tensor, segment: Segment, tokens: int, row_bytes: int, dtype: torch.dtype) -> Tensor:
    """(tokens, grains x 2 x head_dim) of rows that are ``row_bytes`` apart: what is copied."""
    rows = data[: tokens * row_bytes].view(dtype).view(tokens, -1)
    return rows[:, : disk_pair_bytes(segment) // dtype.itemsize]


def by_token(data: Tensor, segment: Segment, tokens: int, row_bytes: int, dtype: torch.dtype) -> Tensor:
    """(grains, 2, tokens, head_dim) of the same rows: what attention reads."""
    rows = token_rows(data, segment, tokens, row_bytes, dtype)
    return rows.unflatten(1, (segment.grains[2], segment.vectors, -1)).permute(1, 2, 0, 3)


def pairs_of(cache: Tensor) -> Tensor:
    """(grains, 2, tokens, head_dim): keys and values, the same memory where one vector is both."""
    return cache.expand(-1, 2, -1, -1)


def grain_rows(cache: Tensor, start: int, tokens: int) -> Tensor:
    """(grains x parts, tokens x head_dim): tokens ``start ..`` of a cache by grain, as rows to be copied."""
    grains, parts, capacity, head_dim = cache.shape
    return cache.view(grains * parts, capacity * head_dim)[:, start * head_dim : (start + tokens) * head_dim]


def value_rows(segment: Segment, positions_GR: Tensor) -> Tensor:
    """(G x R,): where these values of a cache by grain lie, counted in vectors."""
    grains = torch.arange(len(positions_GR), device=positions_GR.device)
    return (positions_GR + (2 * grains[:, None] + 1) * segment.capacity).flatten()


def split_by_home(data: Tensor, segment: Segment, on_host: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Bytes of grains that travel together: ``on_host`` of them from the host by grain, then the disk's by token."""
    end = on_host * tokens * segment.pair_bytes
    return data[:end], data[end:]


def disk_pair_bytes(segment: Segment) -> int:
    """One token of all grains on disk, without padding."""
    return segment.grains[2] * segment.pair_bytes


def put_grains(cache_G2TH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor, first: int, place: Tensor | None = None) -> None:
    """New keys and values of the grains from ``first`` on, at the cache's beginning or at token ``place``.

    The grains that both have: those given may begin later than the cache (``first`` is negative) and end earlier.  A
    cache of keys alone takes the keys.
    """
    rows, new, heads, _ = k_BSKH.shape
    skipped, first = max(0, -first), max(0, first)
    cache_G2TH = cache_G2TH[skipped : skipped + max(0, rows * heads - first)]
    if not len(cache_G2TH):
        return
    if place is not None and cache_G2TH.shape[1] == 2 and compiles_for(cache_G2TH):
        from flexplan_runtime.kernels.decode_step import put_pairs_cuda

        put_pairs_cuda(cache_G2TH, k_BSKH, v_BSKH, first, place)
        return
    for to, x in zip(cache_G2TH.unbind(1), (k_BSKH, v_BSKH), strict=False):
        grains = x.transpose(1, 2)
        if len(to) == rows * heads:  # all of them: straight from where the projection left them
            to = to.unflatten(0, (rows, heads))
        else:
            grains = grains.flatten(0, 1)[first : first + len(to)]
        if place is None:
            to.narrow(-2, 0, new).copy_(grains)
        else:
            to.index_copy_(to.dim() - 2, place, grains)
