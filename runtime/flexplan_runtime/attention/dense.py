"""Attention over grains: one query group and one KV head of one sequence at a time, wherever the keys live.

Letters: G grains (sequence x KV head), P query heads that share a KV head, T tokens, H head_dim;
B rows, S positions, N query heads, K KV heads.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from flexplan_runtime.attention.ring import unrolled
from flexplan_runtime.kernels.availability import compiles_for

_WITHOUT_PLANS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def prompt_attention(q_BSNH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor, mask_B1SS: Tensor | None, scale: float) -> Tensor:
    """Attention of a prompt over itself, (B, S, N x H): by the mask (True is read), and without one causal."""
    q, k, v = (x.transpose(1, 2) for x in (q_BSNH, k_BSKH, v_BSKH))
    grouped = q.shape[1] != k.shape[1]
    # cuDNN's plans are kept by thread, and a job's threads are new: making one takes as long as several layers
    with nullcontext() if grouped and mask_B1SS is not None else sdpa_kernel(_WITHOUT_PLANS):
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask_B1SS, is_causal=mask_B1SS is None, scale=scale, enable_gqa=grouped
        )
    return out.transpose(1, 2).flatten(2)


def decode_attention(
    q: Tensor, pairs_G2TH: Tensor, pads_G: Tensor, position: Tensor, scale: float, sinks_GP: Tensor | None = None
) -> Tensor:
    """One new position of each grain over tokens ``pads .. position`` of its keys and values, (G, P, H).

    ``q`` is (G, P, H), or (B, K, P, H) in the strides of a projection.  Positions may go on in a second lap of tokens.
    Sinks, scores that take weight and have no value, only where the kernel is compiled.
    """
    k_GTH, v_GTH = pairs_G2TH[:, 0], pairs_G2TH[:, 1]
    if compiles_for(q):
        from flexplan_runtime.kernels.decode_attention import decode_attention_cuda

        return decode_attention_cuda(q, k_GTH, v_GTH, pads_G, position, scale, sinks_GP)
    assert sinks_GP is None, "the framework's kernel knows no sinks"
    pairs_G2TH, pads_G = unrolled(pairs_G2TH, pads_G, int(position) + 1)
    return grain_attention(q.flatten(0, -3), pairs_G2TH[:, 0], pairs_G2TH[:, 1], pads_G, scale)


def grain_attention(q_GPH: Tensor, k_GTH: Tensor, v_GTH: Tensor, pads_G: Tensor | None, scale: float) -> Tensor:
    """By the framework's kernel, (G, P, H).

    The query heads of a group stand on the sequence axis, so keys and values are read once for all of them.
    """
    mask = None
    if pads_G is not None and bool(pads_G.any()):
        mask = (torch.arange(k_GTH.shape[1], device=pads_G.device) >= pads_G[:, None])[:, None, None, :]
    q, k, v = q_GPH[:, None], k_GTH[:, None], v_GTH[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)[:, 0]


def prompt_mask(
    pads_B: Tensor, length: int, *, causal: bool = True, window: int = 0, first: int = 0, lowest: int = 0
) -> Tensor:
    """(B, 1, S, S), True where position s may read position t: not later if ``causal``, and not padding.

    With a window only the newest of those.  A padded position reads itself, so that it stays finite; nobody reads it.
    Of positions from ``first`` on, over those from ``lowest`` on.
    """
    s, t = (torch.arange(begin, length, device=pads_B.device) for begin in (first, lowest))
    seen = t[None, :] <= (s[:, None] if causal else length)
    if window:
        seen &= t[None, :] > s[:, None] - window
    real = t[None, :] >= pads_B[:, None]
    itself = s[:, None] == t[None, :]
    return ((seen[None] & real[:, None, :]) | itself[None])[:, None]
