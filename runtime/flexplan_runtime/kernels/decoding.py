"""Codes of a checkpoint to numbers on CUDA, in Triton: each byte is read once and each number written once.

The arithmetic is that of `codes`.  Small floats are read by their bits, which all devices can: sign apart, the bits of
a float of fewer exponent bits are those of a float32 that is smaller by a power of two, subnormals included.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from flexplan.model import Coding
from flexplan_runtime.kernels.packing import WARPS

TILE_ROWS, TILE_COLUMNS = 16, 256


@triton.jit
def _value(codes, MIDDLE: tl.constexpr, CODE: tl.constexpr):  # type: ignore[no-untyped-def]
    """What codes stand for, in float32."""
    bits = codes.to(tl.int32)
    if CODE == "e4m3":
        size = ((bits & 0x7F) << 20).to(tl.float32, bitcast=True) * 1.329227995784916e36  # 2^120
        size = tl.where((bits & 0x7F) == 0x7F, float("nan"), size)
        return tl.where((bits & 0x80) != 0, -size, size)
    if CODE == "e2m1":
        size = ((bits & 7) << 22).to(tl.float32, bitcast=True) * 8.507059173023462e37  # 2^126
        return tl.where((bits & 8) != 0, -size, size)
    return (bits | 0x4B000000).to(tl.float32, bitcast=True) - (8388608.0 + MIDDLE)


@triton.jit
def _scale(at, known, POWERS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Scales in float32."""
    found = tl.load(at, mask=known, other=0)
    if POWERS:
        bits = found.to(tl.int32)
        bits = tl.where(bits == 0, 0x00400000, tl.where(bits == 255, 0x7FC00000, bits << 23))
        return bits.to(tl.float32, bitcast=True)
    return found.to(tl.float32)


@triton.jit
def _decode_rows(  # type: ignore[no-untyped-def]
    data_ptr, scales_ptr, out_ptr, rows, width, groups, group, scales_at, zeros_at, data_row, out_row,
    CODE: tl.constexpr, BITS: tl.constexpr, MIDDLE: tl.constexpr, POWERS: tl.constexpr, ZEROS: tl.constexpr,
    SCALE_BYTES: tl.constexpr, WHOLE: tl.constexpr, WITHIN: tl.constexpr, RB: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    r = (tl.program_id(0) * RB + tl.arange(0, RB)).to(tl.int64)
    real = (r < rows)[:, None]
    first = tl.program_id(1) * CB
    c = first + tl.arange(0, CB)
    if BITS == 8:
        codes = tl.load(data_ptr + r[:, None] * data_row + c[None, :], mask=real & (c < width)[None, :], other=0)
    else:
        b = first // 2 + tl.arange(0, CB // 2)
        both = tl.load(data_ptr + r[:, None] * data_row + b[None, :], mask=real & (b * 2 < width)[None, :], other=0)
        codes = tl.interleave(both & 15, both >> 4)
    numbers = _value(codes, MIDDLE, CODE)
    # Where groups lie side by side in the tile, or the tile lies in one, what they share is read once a group.
    if WITHIN:
        g = first // group + tl.zeros((1,), tl.int32)
    else:
        g = first // WHOLE + tl.arange(0, CB // WHOLE) if WHOLE else c // group
    known = real & (g < groups)[None, :]
    scale = _scale(
        scales_ptr + (r * (data_row // SCALE_BYTES))[:, None] + scales_at // SCALE_BYTES + g[None, :], known, POWERS
    )
    zero = scale
    if ZEROS:
        zero = tl.load(data_ptr + r[:, None] * data_row + zeros_at + g[None, :], mask=known, other=0).to(tl.float32)
    if WHOLE:
        numbers = tl.reshape(numbers, (RB, CB // WHOLE, WHOLE))
        if ZEROS:
            numbers -= zero[:, :, None]
        numbers = tl.reshape(numbers * scale[:, :, None], (RB, CB))
    else:
        if ZEROS:
            numbers -= zero
        numbers = numbers * scale
    out = out_ptr + r[:, None] * out_row + c[None, :]
    tl.store(out, numbers.to(out_ptr.dtype.element_ty), mask=real & (c < width)[None, :])


def decode_rows_cuda(data: Tensor, scales: Tensor, coding: Coding, out: Tensor) -> None:
    """As `codes.decode_rows`; ``scales`` is ``data`` in the dtype of its scales, columns of ``out`` are contiguous."""
    rows, width = out.shape
    group = coding.group_size or width
    within = group >= width or group % TILE_COLUMNS == 0
    whole = group if group == triton.next_power_of_2(group) and group <= TILE_COLUMNS and not within else 0
    _decode_rows[triton.cdiv(rows, TILE_ROWS), triton.cdiv(width, TILE_COLUMNS)](
        data, scales, out, rows, width, coding.num_groups(width), group,
        coding.scales_at(width), coding.zeros_at(width), data.stride(0), out.stride(0),
        CODE=coding.code, BITS=coding.num_bits, MIDDLE=0 if coding.zeros else coding.middle,
        POWERS=coding.scale == "e8m0",
        ZEROS=coding.zeros, SCALE_BYTES=coding.scale_bytes, WHOLE=whole, WITHIN=within, RB=TILE_ROWS, CB=TILE_COLUMNS,
        num_warps=WARPS,
    )  # fmt: skip
