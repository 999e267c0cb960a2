"""Decode attention on CUDA: one program a grain reads its keys and values once, up to a length kept on the device.

With the length on the device the same launch serves every token, so a step can be captured once and replayed.
Online softmax (Milakov and Gimelshein, 2018; FlashAttention, Dao et al., 2022).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = (64, 3, 4)  # tokens at a time, tiles on their way, warps


@triton.jit
def _decode(  # type: ignore[no-untyped-def]  # the compiler reads annotations as its own
    q_ptr, k_ptr, v_ptr, out_ptr, pads_ptr, position_ptr, scale,
    q_grain, q_head, k_grain, k_token, v_grain, v_token, out_grain, out_head,
    P: tl.constexpr, P_PAD: tl.constexpr, H: tl.constexpr, H_PAD: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    grain = tl.program_id(0).to(tl.int64)
    first = tl.load(pads_ptr + grain)
    length = tl.load(position_ptr) + 1
    p, h, t = tl.arange(0, P_PAD), tl.arange(0, H_PAD), tl.arange(0, T)
    q_at = q_ptr + grain * q_grain + p[:, None] * q_head + h[None, :]
    q = tl.load(q_at, mask=(p[:, None] < P) & (h[None, :] < H), other=0.0)
    top = tl.full((P_PAD,), float("-inf"), tl.float32)
    total = tl.zeros((P_PAD,), tl.float32)
    done = tl.zeros((P_PAD, H_PAD), tl.float32)
    for start in range(first // T * T, length, T):
        at = (start + t).to(tl.int64)
        real = (at >= first) & (at < length)
        inside = real[:, None] & (h[None, :] < H)
        k = tl.load(k_ptr + grain * k_grain + at[:, None] * k_token + h[None, :], mask=inside, other=0.0)
        v = tl.load(v_ptr + grain * v_grain + at[:, None] * v_token + h[None, :], mask=inside, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(real[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        chances = tl.exp(scores - safe[:, None])
        shrink = tl.exp(top - safe)
        total = total * shrink + tl.sum(chances, 1)
        done = done * shrink[:, None] + tl.dot(chances.to(v.dtype), v, input_precision="ieee")
        top = higher
    out_at = out_ptr + grain * out_grain + p[:, None] * out_head + h[None, :]
    tl.store(out_at, (done / total[:, None]).to(out_ptr.dtype.element_ty), mask=(p[:, None] < P) & (h[None, :] < H))


def decode_attention_cuda(
    q_GPH: Tensor, k_GTH: Tensor, v_GTH: Tensor, pads_G: Tensor, position: Tensor, scale: float
) -> Tensor:
    """(G, P, H): each grain's queries over tokens ``pads .. position`` of its keys and values."""
    grains, heads, size = q_GPH.shape
    out = torch.empty_like(q_GPH, memory_format=torch.contiguous_format)
    tokens, stages, warps = TILE
    _decode[(grains,)](
        q_GPH, k_GTH, v_GTH, out, pads_G, position, scale,
        q_GPH.stride(0), q_GPH.stride(1), k_GTH.stride(0), k_GTH.stride(1), v_GTH.stride(0), v_GTH.stride(1),
        out.stride(0), out.stride(1),
        P=heads, P_PAD=max(16, triton.next_power_of_2(heads)), H=size, H_PAD=max(16, triton.next_power_of_2(size)),
        T=tokens, num_stages=stages, num_warps=warps,
    )  # fmt: skip
    return out
