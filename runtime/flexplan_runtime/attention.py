"""Attention over grains: one query group and one KV head of one sequence at a time, wherever the keys live.

Letters: G grains (sequence x KV head), P query heads that share a KV head, C context, H head_dim;
B rows, S positions, N query heads, K KV heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def prompt_attention(q_BSNH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor, mask_B1SS: Tensor | None, scale: float) -> Tensor:
    """Causal attention of a prompt over itself, (B, S, N x H); ``mask`` (True is read) where rows are padded."""
    q, k, v = (x.transpose(1, 2) for x in (q_BSNH, k_BSKH, v_BSKH))
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask_B1SS, is_causal=mask_B1SS is None, scale=scale, enable_gqa=grouped
    )
    return out.transpose(1, 2).flatten(2)


def grain_attention(q_GPH: Tensor, k_GCH: Tensor, v_GCH: Tensor, mask_GC: Tensor | None, scale: float) -> Tensor:
    """One new position over its context, (G, P, H).

    The query heads of a group stand on the sequence axis, so keys and values are read once for all of them.
    """
    mask = None if mask_GC is None else mask_GC[:, None, None, :]
    q, k, v = q_GPH[:, None], k_GCH[:, None], v_GCH[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)[:, 0]


def prompt_mask(pads_B: Tensor, length: int) -> Tensor:
    """(B, 1, S, S), True where position s may read position t: not later, and not padding.

    A padded position reads itself, so that it stays finite; nobody reads it.
    """
    position = torch.arange(length, device=pads_B.device)
    causal = position[None, :] <= position[:, None]
    real = position[None, :] >= pads_B[:, None]
    itself = torch.eye(length, dtype=torch.bool, device=pads_B.device)
    return ((causal[None] & real[:, None, :]) | itself[None])[:, None]
