"""Decode attention on CUDA over a packed cache: as `decode_attention`, and keys and values are unpacked in registers.

The two halves of head_dim are two tiles throughout: 4-bit codes of both share a byte, and no tile is put together.
What a key or value becomes is rounded to the model's dtype, as unpacking it first would.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flexplan.model import Packing
from flexplan_runtime.kernels.decode_attention import soften
from flexplan_runtime.kernels.packing import alignment, middle, value

TILE = (32, 3, 2)  # tokens at a time, tiles on their way, warps
TILE_OF_FLOAT32 = (32, 2, 4)  # what a multiprocessor's shared memory holds


@triton.jit
def _numbers(at, inside, GROUPS: tl.constexpr, MIDDLE: tl.constexpr):  # type: ignore[no-untyped-def]
    scale = tl.load(at, mask=inside, other=0.0)
    return scale, scale if MIDDLE else tl.load(at + GROUPS, mask=inside, other=0.0)


@triton.jit
def _half(  # type: ignore[no-untyped-def]
    codes, numbers_ptr, real, h,
    FIRST: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr, MIDDLE: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """(T, h): codes of the columns ``FIRST ..`` of ``WIDTH``, unpacked; numbers_ptr, (T,), at the tokens' scales."""
    T: tl.constexpr = codes.shape[0]
    HB: tl.constexpr = codes.shape[1]
    if FIRST // GROUP == (WIDTH - 1) // GROUP:  # one group: its numbers are read once a token
        scale, minimum = _numbers(numbers_ptr[:, None] + FIRST // GROUP, real[:, None], GROUPS, MIDDLE)
    elif WIDTH - FIRST == HB and HB % GROUP == 0 and FIRST % GROUP == 0:  # once a token and group
        g = FIRST // GROUP + tl.arange(0, HB // GROUP)
        scale, minimum = _numbers(numbers_ptr[:, None] + g[None, :], real[:, None], GROUPS, MIDDLE)
        codes = tl.reshape(codes, (T, HB // GROUP, GROUP))
        scale, minimum = scale[:, :, None], minimum[:, :, None]
    else:
        g = (FIRST + h) // GROUP
        inside = real[:, None] & (FIRST + h < WIDTH)[None, :]
        scale, minimum = _numbers(numbers_ptr[:, None] + g[None, :], inside, GROUPS, MIDDLE)
    return tl.reshape(value(codes, scale, minimum, MIDDLE).to(DTYPE), (T, HB))


@triton.jit(do_not_specialize=["room"])
def _decode(  # type: ignore[no-untyped-def]
    q_ptr, pairs_ptr, numbers_ptr, out_ptr, pads_ptr, position_ptr, scale,
    room, q_grain, q_head, grain_bytes, half_bytes, token_bytes, out_grain, out_head,
    P: tl.constexpr, P_PAD: tl.constexpr, H: tl.constexpr, HALF: tl.constexpr, HB: tl.constexpr,
    GROUP: tl.constexpr, GROUPS: tl.constexpr, BITS: tl.constexpr, MIDDLE: tl.constexpr, ELEMENT: tl.constexpr,
    SCALES_AT: tl.constexpr, ALIGNED: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    DTYPE: tl.constexpr = q_ptr.dtype.element_ty
    grain = tl.program_id(0).to(tl.int64)
    first = tl.load(pads_ptr + grain)
    length = tl.load(position_ptr) + 1
    p, h, t = tl.arange(0, P_PAD), tl.arange(0, HB), tl.arange(0, T)
    in_1, in_2, heads = h < HALF, h < H - HALF, (p < P)[:, None]
    q_at = q_ptr + grain * q_grain + p[:, None] * q_head + h[None, :]
    q_1 = tl.load(q_at, mask=heads & in_1[None, :], other=0.0)
    q_2 = tl.load(q_at + HALF, mask=heads & in_2[None, :], other=0.0)
    top = tl.full((P_PAD,), float("-inf"), tl.float32)
    total = tl.zeros((P_PAD,), tl.float32)
    done_1, done_2 = tl.zeros((P_PAD, HB), tl.float32), tl.zeros((P_PAD, HB), tl.float32)
    for start in range(first // T * T, length, T):
        at = (start + t).to(tl.int64)
        real = (at >= first) & (at < length)
        at = tl.where(at < room, at, at - room)  # a second lap of the ring
        k_offset = tl.multiple_of(grain * grain_bytes + at * token_bytes, ALIGNED)
        v_offset = tl.multiple_of(grain * grain_bytes + half_bytes + at * token_bytes, ALIGNED)
        k_at, v_at = pairs_ptr + k_offset[:, None] + h[None, :], pairs_ptr + v_offset[:, None] + h[None, :]
        k_numbers = numbers_ptr + (k_offset + SCALES_AT) // ELEMENT
        v_numbers = numbers_ptr + (v_offset + SCALES_AT) // ELEMENT
        k_1 = tl.load(k_at, mask=real[:, None] & in_1[None, :], other=0)
        v_1 = tl.load(v_at, mask=real[:, None] & in_1[None, :], other=0)
        if BITS == 4:
            k_1, k_2, v_1, v_2 = k_1 & 15, k_1 >> 4, v_1 & 15, v_1 >> 4
        else:
            k_2 = tl.load(k_at + HALF, mask=real[:, None] & in_2[None, :], other=0)
            v_2 = tl.load(v_at + HALF, mask=real[:, None] & in_2[None, :], other=0)
        k_1 = _half(k_1, k_numbers, real, h, 0, HALF, GROUP, GROUPS, MIDDLE, DTYPE)
        k_2 = _half(k_2, k_numbers, real, h, HALF, H, GROUP, GROUPS, MIDDLE, DTYPE)
        v_1 = _half(v_1, v_numbers, real, h, 0, HALF, GROUP, GROUPS, MIDDLE, DTYPE)
        v_2 = _half(v_2, v_numbers, real, h, HALF, H, GROUP, GROUPS, MIDDLE, DTYPE)
        scores = tl.dot(q_1, tl.trans(k_1), input_precision="ieee")
        scores = tl.dot(q_2, tl.trans(k_2), scores, input_precision="ieee") * scale
        probs, shrink, top, total = soften(scores, real, top, total)
        weights = probs.to(DTYPE)
        done_1 = done_1 * shrink[:, None] + tl.dot(weights, v_1, input_precision="ieee")
        done_2 = done_2 * shrink[:, None] + tl.dot(weights, v_2, input_precision="ieee")
    out_at = out_ptr + grain * out_grain + p[:, None] * out_head + h[None, :]
    tl.store(out_at, (done_1 / total[:, None]).to(DTYPE), mask=heads & in_1[None, :])
    tl.store(out_at + HALF, (done_2 / total[:, None]).to(DTYPE), mask=heads & in_2[None, :])


def decode_attention_packed_cuda(
    q_GPH: Tensor, packed_G2TV: Tensor, packing: Packing, pads_G: Tensor, position: Tensor, scale: float
) -> Tensor:
    """(G, P, H): each grain's queries over tokens ``pads .. position`` of its packed keys and values.

    V is the bytes of a vector, contiguous; the other strides, and where it begins, are multiples of a number's size.
    """
    grains, heads, size = q_GPH.shape
    half = -(-size // 2)
    out = torch.empty_like(q_GPH, memory_format=torch.contiguous_format)
    tokens, stages, warps = TILE if q_GPH.element_size() < 4 else TILE_OF_FLOAT32
    _decode[(grains,)](
        q_GPH, packed_G2TV, packed_G2TV.view(q_GPH.dtype), out, pads_G, position, scale,
        packed_G2TV.shape[2], q_GPH.stride(0), q_GPH.stride(1), *packed_G2TV.stride()[:3], out.stride(0), out.stride(1),
        P=heads, P_PAD=max(16, triton.next_power_of_2(heads)), H=size, HALF=half,
        HB=max(16, triton.next_power_of_2(half)), GROUP=packing.group_size, GROUPS=packing.num_groups(size),
        BITS=packing.num_bits, MIDDLE=middle(packing), ELEMENT=packing.element_bytes,
        SCALES_AT=packing.scales_at(size), ALIGNED=alignment(packed_G2TV), T=tokens, num_stages=stages,
        num_warps=warps,
    )  # fmt: skip
    return out
