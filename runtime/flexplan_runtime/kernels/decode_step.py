"""The small kernels between products on CUDA, in Triton: norms, rotary positions, gates, new pairs to their place.

A step of few rows takes as long as its kernels are many; the framework's norm of two rows takes 8 microseconds, and
turning queries and keys by its elementwise operations 19 kernels.  Prompts of many tokens go through memory once where
the framework's operations go through it several times, and it walks over halves of rows at a third of memory's speed.
All round where the framework rounds.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice


@triton.jit
def _norm(  # type: ignore[no-untyped-def]  # the compiler reads annotations as its own
    x_ptr, weight_ptr, bias_ptr, out_ptr, D, eps, shift,
    CENTRED: tl.constexpr, IN_FLOAT: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    inside = d < D
    x = tl.load(x_ptr + row * D + d, mask=inside, other=0.0).to(tl.float32)
    if CENTRED:
        x = tl.where(inside, x - tl.sum(x, 0) / D, 0.0)
    y = x * tl.rsqrt(tl.sum(x * x, 0) / D + eps)
    if not (CENTRED or IN_FLOAT):  # the weight of a root-mean-square norm multiplies what is rounded already
        y = y.to(out_ptr.dtype.element_ty).to(tl.float32)
    if WEIGHT:
        y *= tl.load(weight_ptr + d, mask=inside, other=0.0).to(tl.float32) + shift
    if BIAS:
        y += tl.load(bias_ptr + d, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * D + d, y.to(out_ptr.dtype.element_ty), mask=inside)


def norm_cuda(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float,
    *, centred: bool, shift: float = 0.0, in_float: bool = False,
) -> Tensor:  # fmt: skip
    """A layer norm, or with ``centred`` false a root-mean-square norm, over the last dimension; x is contiguous.

    ``shift`` is added to the weight, which with ``in_float`` multiplies before anything is rounded.
    """
    width = x.shape[-1]
    block = triton.next_power_of_2(width)
    out = torch.empty_like(x)
    _norm[(x.numel() // width,)](
        x, weight, bias, out, width, eps, shift,
        CENTRED=centred, IN_FLOAT=in_float, WEIGHT=weight is not None, BIAS=bias is not None, BLOCK=block,
        num_warps=max(1, min(16, block // 512)),
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["heads", "tokens"])
def _turn(  # type: ignore[no-untyped-def]
    x_ptr, positions_ptr, frequencies_ptr, out_ptr, heads, tokens, x_token, x_head, frequencies_row, factor,
    HALF: tl.constexpr, BLOCK: tl.constexpr, ACCURATE: tl.constexpr,
):  # fmt: skip
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    h = tl.arange(0, BLOCK)
    inside = h < HALF
    angle = tl.maximum(tl.load(positions_ptr + token), 0).to(tl.float32)
    angle *= tl.load(frequencies_ptr + token // tokens * frequencies_row + h, mask=inside, other=0.0)
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    if ACCURATE:
        cos, sin = libdevice.cos(angle), libdevice.sin(angle)
    else:
        cos, sin = tl.cos(angle), tl.sin(angle)
    cos, sin = (cos * factor).to(dtype).to(tl.float32), (sin * factor).to(dtype).to(tl.float32)
    x_at = x_ptr + token * x_token + head * x_head + h
    low = tl.load(x_at, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(x_at + HALF, mask=inside, other=0.0).to(tl.float32)
    out_at = out_ptr + (token * heads + head) * (2 * HALF) + h
    # each product is rounded before the sum, as separate operations do it
    first = (low * cos).to(dtype).to(tl.float32) + (-high * sin).to(dtype).to(tl.float32)
    second = (high * cos).to(dtype).to(tl.float32) + (low * sin).to(dtype).to(tl.float32)
    tl.store(out_at, first.to(dtype), mask=inside)
    tl.store(out_at + HALF, second.to(dtype), mask=inside)


def turn_cuda(x_BSNH: Tensor, positions_BS: Tensor, frequencies: Tensor, factor: float = 1.0) -> Tensor:
    """Rotary positions: heads turned by their position times ``frequencies``, (H / 2) or one row for each of B.

    ``factor`` multiplies cosines and sines before they are rounded.
    """
    rows, tokens, heads, size = x_BSNH.shape
    x_TNH = x_BSNH.flatten(0, 1)
    out = torch.empty(x_BSNH.shape, dtype=x_BSNH.dtype, device=x_BSNH.device)
    _turn[(rows * tokens, heads)](
        x_TNH, positions_BS.contiguous(), frequencies, out, heads, tokens, x_TNH.stride(0), x_TNH.stride(1),
        frequencies.stride(0) if frequencies.dim() == 2 else 0, factor,
        HALF=size // 2, BLOCK=triton.next_power_of_2(size // 2), ACCURATE=x_BSNH.is_cuda, num_warps=1,
    )  # fmt: skip
    return out


@triton.jit
def _gate(x_ptr, width, x_row, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at, inside = x_ptr + tl.program_id(0).to(tl.int64) * x_row + column, column < width
    gate = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    opened = (gate / (1 + tl.exp(-gate))).to(dtype).to(tl.float32)  # rounded, as separate operations do it
    tl.store(at, (opened * tl.load(at + width, mask=inside, other=0.0).to(tl.float32)).to(dtype), mask=inside)


def gate_cuda(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up`` of rows that hold both, one behind the other, over the gates; the rows are contiguous."""
    gate, _ = gate_up.chunk(2, dim=-1)
    width, block = gate.shape[-1], 1024
    rows = gate_up.numel() // (2 * width)
    _gate[(rows, triton.cdiv(width, block))](gate_up, width, 2 * width, BLOCK=block, num_warps=4)
    return gate


@triton.jit(do_not_specialize=["first", "heads"])
def _put(  # type: ignore[no-untyped-def]
    k_ptr, v_ptr, cache_ptr, place_ptr, first, heads, k_row, k_head, v_row, v_head, c_grain, c_part, c_token,
    H: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    grain = tl.program_id(0).to(tl.int64)
    row, head = (first + grain) // heads, (first + grain) % heads
    h = tl.arange(0, BLOCK)
    to = cache_ptr + grain * c_grain + tl.load(place_ptr) * c_token + h
    k = tl.load(k_ptr + row * k_row + head * k_head + h, mask=h < H)
    v = tl.load(v_ptr + row * v_row + head * v_head + h, mask=h < H)
    tl.store(to, k, mask=h < H)
    tl.store(to + c_part, v, mask=h < H)


def put_pairs_cuda(cache_G2TH: Tensor, k_B1KH: Tensor, v_B1KH: Tensor, first: int, place: Tensor) -> None:
    """One new key and value of the grains ``first ..`` into a cache of such pairs, at token ``place``."""
    heads, size = k_B1KH.shape[2:]
    _put[(len(cache_G2TH),)](
        k_B1KH, v_B1KH, cache_G2TH, place, first, heads,
        k_B1KH.stride(0), k_B1KH.stride(2), v_B1KH.stride(0), v_B1KH.stride(2),
        cache_G2TH.stride(0), cache_G2TH.stride(1), cache_G2TH.stride(2),
        H=size, BLOCK=triton.next_power_of_2(size), num_warps=1,
    )  # fmt: skip
