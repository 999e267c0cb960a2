"""Packing and unpacking on CUDA, in Triton: each byte is read once and each number written once.

The arithmetic and the layouts are those of `quantisation`.  A code byte of 4 bits gives two tiles, of columns ``b``
and ``b + code_bytes``.  Nothing waits for the device, so all of it can be captured.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from flexplan.model import Packing

TILE_ROWS, TILE_BYTES, WARPS = 32, 256, 8  # of an unpacking program: 32 code bytes a thread
PACKED_ELEMENTS = 2048  # of a packing program
WIDEST_PACKED = 4096  # what a packing program can hold; wider vectors are left to the framework


@triton.jit
def value(codes, scale, minimum, MIDDLE: tl.constexpr):  # type: ignore[no-untyped-def]
    """What codes stand for, in float32; ``MIDDLE`` is 0 where asymmetric.

    A code becomes a float as the low bits of 2^23, which is 4 times as fast as the conversion of bytes.
    """
    steps = (codes.to(tl.int32) | 0x4B000000).to(tl.float32, bitcast=True) - (8388608.0 + MIDDLE)
    return steps * scale.to(tl.float32) if MIDDLE else steps * scale.to(tl.float32) + minimum.to(tl.float32)


# -- unpacking ---------------------------------------------------------------------------------------------------------
@triton.jit
def _unpack_slabs(  # type: ignore[no-untyped-def]
    data_ptr, numbers_ptr, out_ptr, rows, width, code_bytes, codes_at, slab_bytes, out_row,
    GROUP: tl.constexpr, BITS: tl.constexpr, MIDDLE: tl.constexpr, ELEMENT: tl.constexpr,
    RB: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    parts = tl.cdiv(GROUP, RB)
    slab = (tl.program_id(0) // parts).to(tl.int64)
    r = tl.program_id(0) % parts * RB + tl.arange(0, RB)
    row = slab * GROUP + r
    b = tl.program_id(1) * CB + tl.arange(0, CB)
    numbers = numbers_ptr + slab * (slab_bytes // ELEMENT)
    real = ((r < GROUP) & (row < rows))[:, None]
    at = data_ptr + slab * slab_bytes + codes_at + r[:, None] * code_bytes + b[None, :]
    codes = tl.load(at, mask=real & (b < code_bytes)[None, :], other=0)
    out = out_ptr + row[:, None] * out_row
    for half in tl.static_range(8 // BITS):
        c = b + half * code_bytes
        inside = c < width
        scale = tl.load(numbers + c, mask=inside, other=0.0)[None, :]
        minimum = scale
        if not MIDDLE:
            minimum = tl.load(numbers + width + c, mask=inside, other=0.0)[None, :]
        code = codes if BITS == 8 else codes >> 4 if half else codes & 15
        inside &= b < code_bytes
        numbers_out = value(code, scale, minimum, MIDDLE).to(out_ptr.dtype.element_ty)
        tl.store(out + c[None, :], numbers_out, mask=real & inside[None, :])


@triton.jit
def _unpack_rows(  # type: ignore[no-untyped-def]
    data_ptr, numbers_ptr, out_ptr, rows, width, code_bytes, scales_at, num_groups, data_row, out_row,
    GROUP: tl.constexpr, BITS: tl.constexpr, MIDDLE: tl.constexpr, ELEMENT: tl.constexpr, WHOLE: tl.constexpr,
    RB: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    r = (tl.program_id(0) * RB + tl.arange(0, RB)).to(tl.int64)
    b = tl.program_id(1) * CB + tl.arange(0, CB)
    real = (r < rows)[:, None]
    codes = tl.load(data_ptr + r[:, None] * data_row + b[None, :], mask=real & (b < code_bytes)[None, :], other=0)
    scales = numbers_ptr + (r * (data_row // ELEMENT))[:, None] + scales_at // ELEMENT
    for half in tl.static_range(8 // BITS):
        c = b + half * code_bytes
        # Where groups lie side by side in the tile, what they share is read once a group.
        first = (tl.program_id(1) * CB + half * code_bytes) // GROUP
        g = first + tl.arange(0, CB // GROUP) if WHOLE else c // GROUP
        known = real & (g < num_groups)[None, :]
        scale = tl.load(scales + g[None, :], mask=known, other=0.0)
        minimum = scale
        if not MIDDLE:
            minimum = tl.load(scales + num_groups + g[None, :], mask=known, other=0.0)
        code = codes if BITS == 8 else codes >> 4 if half else codes & 15
        if WHOLE:
            code = tl.reshape(code, (RB, CB // GROUP, GROUP))
            numbers_out = tl.reshape(value(code, scale[:, :, None], minimum[:, :, None], MIDDLE), (RB, CB))
        else:
            numbers_out = value(code, scale, minimum, MIDDLE)
        inside = real & ((b < code_bytes) & (c < width))[None, :]
        out = out_ptr + r[:, None] * out_row + c[None, :]
        tl.store(out, numbers_out.to(out_ptr.dtype.element_ty), mask=inside)


def unpack_slabs_cuda(data: Tensor, packing: Packing, out: Tensor) -> None:
    """As `quantisation.unpack_slabs`; columns of ``out`` are contiguous."""
    rows, width = out.shape
    code_bytes, tile_rows = packing.code_bytes(width), min(TILE_ROWS, triton.next_power_of_2(packing.group_size))
    slabs = packing.num_groups(rows)
    grid = (slabs * triton.cdiv(packing.group_size, tile_rows), triton.cdiv(code_bytes, TILE_BYTES))
    _unpack_slabs[grid](
        data, data.view(out.dtype), out, rows, width, code_bytes, packing.codes_at(width), packing.slab_bytes(width),
        out.stride(0), GROUP=packing.group_size, BITS=packing.num_bits, MIDDLE=middle(packing),
        ELEMENT=packing.element_bytes, RB=tile_rows, CB=TILE_BYTES, num_warps=WARPS,
    )  # fmt: skip


def unpack_rows_cuda(packed: Tensor, packing: Packing, out: Tensor) -> None:
    """As `quantisation.unpack_rows`; rows may lie any multiple of a number's size apart."""
    rows, width = out.shape
    code_bytes, group = packing.code_bytes(width), packing.group_size
    power = group == triton.next_power_of_2(group) and group <= TILE_BYTES
    whole = power and (packing.num_bits == 8 or code_bytes % group == 0)
    _unpack_rows[triton.cdiv(rows, TILE_ROWS), triton.cdiv(code_bytes, TILE_BYTES)](
        packed, packed.view(out.dtype), out, rows, width, code_bytes, packing.scales_at(width),
        packing.num_groups(width), packed.stride(0), out.stride(0), GROUP=group, BITS=packing.num_bits,
        MIDDLE=middle(packing), ELEMENT=packing.element_bytes, WHOLE=whole, RB=TILE_ROWS, CB=TILE_BYTES,
        num_warps=WARPS,
    )  # fmt: skip


# -- packing -----------------------------------------------------------------------------------------------------------
@triton.jit
def _pack_vectors(  # type: ignore[no-untyped-def]
    x_ptr, out_ptr, numbers_ptr, num_vectors, size_1, size_2, size_3,
    x_0, x_1, x_2, x_3, x_last, out_0, out_1, out_2, out_3,
    WIDTH: tl.constexpr, HALF: tl.constexpr, HB: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr,
    BITS: tl.constexpr, MIDDLE: tl.constexpr, ELEMENT: tl.constexpr, CODE_BYTES: tl.constexpr,
    SCALES_AT: tl.constexpr, VECTOR_BYTES: tl.constexpr, ALIGNED: tl.constexpr, NB: tl.constexpr,
):  # fmt: skip
    LEVELS: tl.constexpr = 2**BITS - 1
    n = tl.program_id(0) * NB + tl.arange(0, NB)
    real = n < num_vectors
    i_3, rest = (n % size_3).to(tl.int64), n // size_3
    i_2, rest = (rest % size_2).to(tl.int64), rest // size_2
    i_1, i_0 = (rest % size_1).to(tl.int64), (rest // size_1).to(tl.int64)
    x_at = x_ptr + (i_0 * x_0 + i_1 * x_1 + i_2 * x_2 + i_3 * x_3)[:, None]
    out_offset = tl.multiple_of(i_0 * out_0 + i_1 * out_1 + i_2 * out_2 + i_3 * out_3, ALIGNED)
    out_at = out_ptr + out_offset[:, None]
    numbers_at = numbers_ptr + out_offset // ELEMENT + SCALES_AT // ELEMENT
    h = tl.arange(0, HB)[None, :]
    h_2 = h + HALF
    in_1, in_2 = h < HALF, h_2 < WIDTH
    x1 = tl.load(x_at + h * x_last, mask=real[:, None] & in_1, other=0.0).to(tl.float32)
    x2 = tl.load(x_at + h_2 * x_last, mask=real[:, None] & in_2, other=0.0).to(tl.float32)
    step_1 = tl.full((NB, HB), float("inf"), tl.float32)  # a scale of 0 is a step of infinity: code 0
    step_2, low_1, low_2 = step_1, tl.zeros((NB, HB), tl.float32), tl.zeros((NB, HB), tl.float32)
    for g in range(GROUPS):
        mine_1, mine_2 = in_1 & (h // GROUP == g), in_2 & (h_2 // GROUP == g)
        if MIDDLE:
            most_1, most_2 = tl.where(mine_1, tl.abs(x1), 0.0), tl.where(mine_2, tl.abs(x2), 0.0)
            reach = tl.max(tl.maximum(most_1, most_2), 1)
            scale = tl.div_rn(reach, tl.full((NB,), MIDDLE - 1, tl.float32)).to(x_ptr.dtype.element_ty)
        else:
            most_1, most_2 = tl.where(mine_1, x1, float("-inf")), tl.where(mine_2, x2, float("-inf"))
            least_1, least_2 = tl.where(mine_1, x1, float("inf")), tl.where(mine_2, x2, float("inf"))
            least = tl.min(tl.minimum(least_1, least_2), 1)
            reach = tl.max(tl.maximum(most_1, most_2), 1) - least
            scale = tl.div_rn(reach, tl.full((NB,), LEVELS, tl.float32)).to(x_ptr.dtype.element_ty)
            minimum = least.to(x_ptr.dtype.element_ty)
            tl.store(numbers_at + GROUPS + g, minimum, mask=real)
            low_1 = tl.where(mine_1, minimum.to(tl.float32)[:, None], low_1)
            low_2 = tl.where(mine_2, minimum.to(tl.float32)[:, None], low_2)
        tl.store(numbers_at + g, scale, mask=real)
        step = tl.where(scale == 0.0, float("inf"), scale.to(tl.float32))[:, None]
        step_1, step_2 = tl.where(mine_1, step, step_1), tl.where(mine_2, step, step_2)
    code_1 = tl.floor(tl.div_rn(x1 - low_1, step_1) + (MIDDLE + 0.5))
    code_2 = tl.floor(tl.div_rn(x2 - low_2, step_2) + (MIDDLE + 0.5))
    code_1 = tl.minimum(tl.maximum(code_1, 0.0), LEVELS).to(tl.uint8)
    code_2 = tl.where(in_2, tl.minimum(tl.maximum(code_2, 0.0), LEVELS), 0.0).to(tl.uint8)
    if BITS == 4:
        tl.store(out_at + h, code_1 | (code_2 << 4), mask=real[:, None] & in_1)
    else:
        tl.store(out_at + h, code_1, mask=real[:, None] & in_1)
        tl.store(out_at + h_2, code_2, mask=real[:, None] & in_2)
    gap = tl.arange(0, 4)[None, :]
    END: tl.constexpr = SCALES_AT + (1 if MIDDLE else 2) * GROUPS * ELEMENT
    nothing = tl.zeros((NB, 4), tl.uint8)
    tl.store(out_at + CODE_BYTES + gap, nothing, mask=real[:, None] & (CODE_BYTES + gap < SCALES_AT))
    tl.store(out_at + END + gap, nothing, mask=real[:, None] & (END + gap < VECTOR_BYTES))


def can_pack(x: Tensor, out: Tensor) -> bool:
    """Up to four axes before the last, no wider than a program holds, numbers where numbers may lie."""
    numbers = x.element_size()
    aligned = math.gcd(out.storage_offset(), out.data_ptr(), *out.stride()[:-1]) % numbers == 0
    return x.dim() <= 5 and x.shape[-1] <= WIDEST_PACKED and aligned


def pack_vectors_cuda(x: Tensor, packing: Packing, out: Tensor) -> None:
    """As `quantisation.pack_vectors`, in one pass, for what `can_pack`."""
    width, num_vectors = x.shape[-1], x.numel() // x.shape[-1]
    if num_vectors == 0:
        return
    half = -(-width // 2)
    tile = triton.next_power_of_2(half)
    vectors = max(1, min(PACKED_ELEMENTS // (2 * tile), triton.next_power_of_2(num_vectors // 256 + 1)))
    missing = 5 - x.dim()
    sizes = [1] * missing + list(x.shape[:-1])
    x_strides, out_strides = ([0] * missing + list(t.stride()[:-1]) for t in (x, out))
    _pack_vectors[triton.cdiv(num_vectors, vectors),](
        x, out, out.view(x.dtype), num_vectors, *sizes[1:], *x_strides, x.stride(-1), *out_strides,
        WIDTH=width, HALF=half, HB=tile, GROUP=packing.group_size, GROUPS=packing.num_groups(width),
        BITS=packing.num_bits, MIDDLE=middle(packing), ELEMENT=packing.element_bytes,
        CODE_BYTES=packing.code_bytes(width), SCALES_AT=packing.scales_at(width),
        VECTOR_BYTES=packing.vector_bytes(width), ALIGNED=alignment(out), NB=vectors, num_warps=4,
    )  # fmt: skip


def alignment(packed: Tensor) -> int:
    """Bytes, up to 16, of which the vectors' distances are multiples: what a thread may read or write at once."""
    return math.gcd(16, *packed.stride()[:-1])


def middle(packing: Packing) -> int:
    """The code of 0 where symmetric, and 0 where asymmetric."""
    return 2 ** (packing.num_bits - 1) if packing.symmetric else 0
