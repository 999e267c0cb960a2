"""Decode attention on CUDA: one program a grain reads its keys and values once, up to a length kept on the device.

With the length on the device the same launch serves every token, so a step can be captured once and replayed.
Online softmax (Milakov and Gimelshein, 2018; FlashAttention, Dao et al., 2022).  Few grains would leave most of the
device idle: their tokens are split among several programs (Flash-Decoding, Dao et al., 2023).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = (64, 3, 4)  # tokens at a time, tiles on their way, warps
_PROGRAMS = 128  # about the multiprocessors of a device
_SPLITS = 4  # at most, of a grain's tokens


@triton.jit
def soften(scores, real, top, total):  # type: ignore[no-untyped-def]
    """A tile of scores into an online softmax: its weights, what those before shrink by, and the new top and total."""
    scores = tl.where(real[None, :], scores, float("-inf"))
    higher = tl.maximum(top, tl.max(scores, 1))
    safe = tl.where(higher == float("-inf"), 0.0, higher)
    probs = tl.exp(scores - safe[:, None])
    shrink = tl.exp(top - safe)
    return probs, shrink, higher, total * shrink + tl.sum(probs, 1)


@triton.jit(do_not_specialize=["heads", "room"])
def _decode(  # type: ignore[no-untyped-def]  # the compiler reads annotations as its own
    q_ptr, k_ptr, v_ptr, out_ptr, tops_ptr, totals_ptr, pads_ptr, position_ptr, sinks_ptr, scale,
    heads, room, q_row, q_grain, q_head, k_grain, k_token, v_grain, v_token,
    P: tl.constexpr, P_PAD: tl.constexpr, H: tl.constexpr, H_PAD: tl.constexpr, T: tl.constexpr, SPLITS: tl.constexpr,
    SINKS: tl.constexpr,
):  # fmt: skip
    grain, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first = tl.load(pads_ptr + grain)
    length = tl.load(position_ptr) + 1
    p, h, t = tl.arange(0, P_PAD), tl.arange(0, H_PAD), tl.arange(0, T)
    mine = (p[:, None] < P) & (h[None, :] < H)
    q_at = q_ptr + grain // heads * q_row + grain % heads * q_grain + p[:, None] * q_head + h[None, :]
    q = tl.load(q_at, mask=mine, other=0.0)
    top = tl.full((P_PAD,), float("-inf"), tl.float32)
    total = tl.zeros((P_PAD,), tl.float32)
    done = tl.zeros((P_PAD, H_PAD), tl.float32)
    begin = first // T * T
    tokens = tl.cdiv(tl.cdiv(length - begin, T), SPLITS) * T  # of a split, in whole tiles
    begin += split * tokens
    for start in range(begin, tl.minimum(begin + tokens, length), T):
        at = (start + t).to(tl.int64)
        real = (at >= first) & (at < length)
        inside = real[:, None] & (h[None, :] < H)
        at = tl.where(at < room, at, at - room)  # a second lap of the ring
        k = tl.load(k_ptr + grain * k_grain + at[:, None] * k_token + h[None, :], mask=inside, other=0.0)
        v = tl.load(v_ptr + grain * v_grain + at[:, None] * v_token + h[None, :], mask=inside, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        probs, shrink, top, total = soften(scores, real, top, total)
        done = done * shrink[:, None] + tl.dot(probs.to(v.dtype), v, input_precision="ieee")
    part = grain * SPLITS + split
    if SPLITS == 1:
        if SINKS:
            total += tl.exp(tl.load(sinks_ptr + grain * P + p, mask=p < P, other=float("-inf")) - top)
        done = done / total[:, None]
    else:
        tl.store(tops_ptr + part * P + p, top, mask=p < P)
        tl.store(totals_ptr + part * P + p, total, mask=p < P)
    out_at = out_ptr + part * P * H + p[:, None] * H + h[None, :]
    tl.store(out_at, done.to(out_ptr.dtype.element_ty), mask=mine)


@triton.jit
def _join(  # type: ignore[no-untyped-def]
    parts_ptr, tops_ptr, totals_ptr, sinks_ptr, out_ptr,
    P: tl.constexpr, H: tl.constexpr, H_PAD: tl.constexpr, SPLITS: tl.constexpr, SINKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)  # of grains and their queries
    n, h = tl.arange(0, SPLITS), tl.arange(0, H_PAD)
    part = (row // P * SPLITS + n) * P + row % P
    tops = tl.load(tops_ptr + part)
    top = tl.max(tops, 0)
    weights = tl.exp(tops - top)
    total = tl.sum(tl.load(totals_ptr + part) * weights, 0)
    if SINKS:
        total += tl.exp(tl.load(sinks_ptr + row) - top)
    parts = tl.load(parts_ptr + part[:, None] * H + h[None, :], mask=h[None, :] < H, other=0.0)
    done = tl.sum(parts * weights[:, None], 0) / total
    tl.store(out_ptr + row * H + h, done.to(out_ptr.dtype.element_ty), mask=h < H)


def decode_attention_cuda(
    q: Tensor,
    k_GTH: Tensor,
    v_GTH: Tensor,
    pads_G: Tensor,
    position: Tensor,
    scale: float,
    sinks_GP: Tensor | None = None,
) -> Tensor:
    """(G, P, H): each grain's queries over tokens ``pads .. position`` of its keys and values, maybe in a second lap.

    Sinks (float32, contiguous) are scores that take weight and have no value.

    ``q`` is (G, P, H), or as a projection leaves it (B, K, P, H) with G = B x K.
    """
    rows_BKPH = q if q.dim() == 4 else q[None]
    heads, group, size = rows_BKPH.shape[1:]
    grains = len(rows_BKPH) * heads
    splits = 1 if grains >= _PROGRAMS else _SPLITS
    kw = {"device": q.device, "dtype": torch.float32}
    out = torch.empty(grains, group, size, device=q.device, dtype=q.dtype)
    parts = out if splits == 1 else torch.empty(grains, splits, group, size, **kw)
    tops = torch.empty(grains * splits * group, **kw) if splits > 1 else None
    totals = None if tops is None else torch.empty_like(tops)
    tokens, stages, warps = TILE
    sizes = {"P": group, "H": size, "H_PAD": max(16, triton.next_power_of_2(size)), "SPLITS": splits}
    sizes["SINKS"] = sinks_GP is not None
    _decode[(grains, splits)](
        rows_BKPH, k_GTH, v_GTH, parts, tops, totals, pads_G, position, sinks_GP, scale,
        heads, k_GTH.shape[1],
        *rows_BKPH.stride()[:3], k_GTH.stride(0), k_GTH.stride(1), v_GTH.stride(0), v_GTH.stride(1),
        P_PAD=max(16, triton.next_power_of_2(group)), T=tokens, num_stages=stages, num_warps=warps, **sizes,
    )  # fmt: skip
    if splits > 1:
        _join[(grains * group,)](parts, tops, totals, sinks_GP, out, num_warps=1, **sizes)
    return out
