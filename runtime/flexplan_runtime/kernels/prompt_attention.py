"""Attention of prompts on CUDA by rules that the framework's kernels do not know: windows, caps, sinks.

A program computes some positions of a head over the tokens that they read, a tile at a time: FlashAttention-2 (Dao,
2023), where a sink joins the sum of weights at the end.  No mask is made; tiles that no position reads are left out.
Letters as in `attention`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flexplan_runtime.kernels.attention_rule import AttentionRule

_TILES = {2: ((128, 64, 4), (64, 64, 4), (64, 32, 4)), 4: ((32, 32, 4),) * 3}
"""By the bytes of a number, for heads up to 64, up to 128 and wider: positions, tokens at a time, warps."""


@triton.jit
def _bounded(scores, cap: tl.constexpr):  # type: ignore[no-untyped-def]
    """cap x tanh(scores / cap)."""
    return cap - 2 * cap / (tl.exp(scores * (2 / cap)) + 1)


@triton.jit
def _attend(  # type: ignore[no-untyped-def]  # the compiler reads annotations as its own
    q_ptr, k_ptr, v_ptr, out_ptr, pads_ptr, sinks_ptr, scale, length, heads, pads_step,
    q_row, q_token, q_head, k_row, k_token, k_head, v_row, v_token, v_head, out_row, out_token,
    GROUP: tl.constexpr, WINDOW: tl.constexpr, CAP: tl.constexpr, SINKS: tl.constexpr,
    H: tl.constexpr, H_PAD: tl.constexpr, M: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(1) * M
    row, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    pad = tl.load(pads_ptr + row * pads_step)
    m, t, h = first + tl.arange(0, M), tl.arange(0, T), tl.arange(0, H_PAD)
    asked = (m[:, None] < length) & (h[None, :] < H)
    q = tl.load(q_ptr + row * q_row + m[:, None] * q_token + head * q_head + h[None, :], mask=asked, other=0.0)
    k_ptr += row * k_row + head // GROUP * k_head
    v_ptr += row * v_row + head // GROUP * v_head
    top = tl.full((M,), float("-inf"), tl.float32)
    total = tl.zeros((M,), tl.float32)
    done = tl.zeros((M, H_PAD), tl.float32)
    lowest = pad
    if WINDOW > 0:
        lowest = tl.maximum(pad, first - WINDOW + 1)
    for start in range(
        tl.minimum(lowest, first) // T * T, tl.minimum(first + M, length), T
    ):  # a padded one reads itself
        at = start + t
        inside = (at[:, None] < length) & (h[None, :] < H)
        k = tl.load(k_ptr + at[:, None] * k_token + h[None, :], mask=inside, other=0.0)
        v = tl.load(v_ptr + at[:, None] * v_token + h[None, :], mask=inside, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if CAP > 0:
            scores = _bounded(scores, CAP)
        read = (at[None, :] <= m[:, None]) & (at[None, :] >= pad)
        if WINDOW > 0:
            read = read & (at[None, :] > m[:, None] - WINDOW)
        read = read | (at[None, :] == m[:, None])
        scores = tl.where(read, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        safe = tl.where(higher == float("-inf"), 0.0, higher)  # of a position that reads none of this tile
        probs = tl.exp(scores - safe[:, None])
        shrink = tl.exp(top - safe)
        total = total * shrink + tl.sum(probs, 1)
        done = done * shrink[:, None] + tl.dot(probs.to(v.dtype), v, input_precision="ieee")
        top = higher
    if SINKS:
        total += tl.exp(tl.load(sinks_ptr + head) - top)
    done = done / total[:, None]
    out_at = out_ptr + row * out_row + m[:, None] * out_token + head * H + h[None, :]
    tl.store(out_at, done.to(out_ptr.dtype.element_ty), mask=asked)


def prompt_attention_cuda(
    q_BSNH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor, pads_B: Tensor, rule: AttentionRule
) -> Tensor:
    """(B, S, N x H): each position over those from the row's first token, or in its window, to itself.

    By a rule that `is_plain_but_scores`.
    ``pads_B`` counts the leading tokens that are not read, of each row or of all (1,); what a padded position gets is
    finite, and nobody reads it.  Any strides, as long as the last axis is contiguous.
    """
    rows, length, heads, size = q_BSNH.shape
    out = torch.empty(rows, length, heads * size, dtype=q_BSNH.dtype, device=q_BSNH.device)
    positions, tokens, warps = _TILES[q_BSNH.element_size()][(size > 64) + (size > 128)]
    strides = (n for x in (q_BSNH, k_BSKH, v_BSKH) for n in x.stride()[:3])
    sinks = None if rule.sinks_KP is None else rule.sinks_KP.contiguous()
    _attend[(rows * heads, triton.cdiv(length, positions))](
        q_BSNH, k_BSKH, v_BSKH, out, pads_B, sinks, rule.scale, length, heads, int(len(pads_B) > 1),
        *strides, *out.stride()[:2],
        GROUP=heads // k_BSKH.shape[2], WINDOW=rule.window, CAP=rule.softcap or 0.0, SINKS=sinks is not None,
        H=size, H_PAD=max(16, triton.next_power_of_2(size)), M=positions, T=tokens, num_warps=warps, num_stages=2,
    )  # fmt: skip
    return out
