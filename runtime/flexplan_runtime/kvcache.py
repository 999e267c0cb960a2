"""Views of the KV cache: bytes of a slot as keys and values.

On the gpu and the host a grain's keys are contiguous over its tokens, as attention reads them:
(grain, key or value, token, head_dim).  On disk a token's grains are contiguous, as decoding appends them:
(token, grain, key or value, head_dim), each row padded for direct I/O.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flexplan.cache_placement import Segment


def by_grain(data: Tensor, grains: int, tokens: int, head_dim: int, dtype: torch.dtype) -> Tensor:
    """(grains, 2, tokens, head_dim) of bytes."""
    return data.view(dtype)[: grains * 2 * tokens * head_dim].view(grains, 2, tokens, head_dim)


def by_token(data: Tensor, segment: Segment, tokens: int, dtype: torch.dtype) -> Tensor:
    """(grains, 2, tokens, head_dim) of disk rows: the same axes as `by_grain`, other strides."""
    grains = segment.grains[2]
    rows = data[: tokens * segment.disk_row_bytes].view(dtype).view(tokens, -1)
    used = rows[:, : grains * 2 * segment.head_dim]
    return used.view(tokens, grains, 2, segment.head_dim).permute(1, 2, 0, 3)


def grains_of(k_BSKH: Tensor, v_BSKH: Tensor) -> Tensor:
    """New keys and values as (B x K grains, 2, S, H)."""
    pairs = torch.stack((k_BSKH.transpose(1, 2), v_BSKH.transpose(1, 2)), dim=2)  # B K 2 S H
    return pairs.flatten(0, 1)
