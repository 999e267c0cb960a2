"""Group-wise quantisation: tensors to the bytes that `flexplan.model.packing` lays out, and back.

Scales and minima are rounded to the model's dtype first, and codes chosen against what was rounded.  Unpacking is

    asymmetric  code * scale + minimum            symmetric  (code - 2^(bits-1)) * scale

in float32, rounded once to the dtype.  A code times a 16-bit scale is exact in float32, so there every kernel gives
the same bits, fused or not; with float32 scales a fused multiply-add may differ in the last place.

Values are finite.  An asymmetric group of equal values comes back exactly.  With float16, values within a thousandth
of the largest may come back infinite.  Letters: W width of a vector, R rows and C columns of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from flexplan.model import Packing
from flexplan_runtime.kernels.availability import compiles_for

CHUNK = 1 << 18  # elements that are float32 at a time: what a core's cache holds


def pack_vectors(x: Tensor, packing: Packing, out: Tensor) -> None:
    """(..., W) in the model's dtype to (..., vector_bytes) uint8 with any strides but the last."""
    assert x.element_size() == packing.element_bytes
    if compiles_for(x):
        from flexplan_runtime.kernels.packing import can_pack, pack_vectors_cuda

        if can_pack(x, out):
            return pack_vectors_cuda(x, packing, out)
    width, codes_at_end = x.shape[-1], packing.code_bytes(x.shape[-1])
    codes, shared = _encode(_grouped(x, packing), -1, packing)
    _write_codes(codes.flatten(-2)[..., :width], packing, out[..., :codes_at_end])
    end = packing.scales_at(width)
    out[..., codes_at_end:end] = 0
    for numbers in shared:
        start, end = end, end + packing.num_groups(width) * packing.element_bytes
        out[..., start:end] = numbers.squeeze(-1).view(torch.uint8)
    out[..., end:] = 0
    return None


def unpack_vectors(packed: Tensor, packing: Packing, width: int, dtype: torch.dtype) -> Tensor:
    """(..., vector_bytes) uint8 to (..., W)."""
    end, shared = packing.scales_at(width), []
    codes = _read_codes(packed[..., : packing.code_bytes(width)], packing, width)
    for _ in range(packing.params):
        start, end = end, end + packing.num_groups(width) * packing.element_bytes
        shared.append(_numbers(packed[..., start:end], dtype)[..., None])
    return _decode(_grouped(codes, packing), shared, packing).flatten(-2)[..., :width].to(dtype)


def pack_rows(x: Tensor, packing: Packing, out: Tensor) -> None:
    """(R, C) in the model's dtype to (R, vector_bytes) uint8, one vector a row."""
    step = max(1, len(x) if compiles_for(x) else CHUNK // x.shape[1])
    for rows, vectors in zip(x.split(step), out.split(step), strict=True):
        pack_vectors(rows, packing, vectors)


def pack_slabs(x: Tensor, packing: Packing, out: Tensor) -> None:
    """(R, C) in the model's dtype, from the beginning of a slab on, to 1-D uint8 of ``slabs_bytes(R, C)``."""
    assert x.element_size() == packing.element_bytes
    width = x.shape[1]
    for rows, slabs in _slabs(x, packing, out):
        codes, shared = _encode(rows, -2, packing)
        at = packing.codes_at(width)
        slabs[:, :at] = torch.cat(shared, 1).flatten(1).view(torch.uint8)
        end = at + rows.shape[1] * packing.code_bytes(width)
        _write_codes(codes, packing, slabs[:, at:end].unflatten(1, (rows.shape[1], -1)))
        slabs[:, end:] = 0


def unpack_slabs(data: Tensor, packing: Packing, out: Tensor) -> None:
    """1-D uint8 of ``slabs_bytes(R, C)`` into (R, C)."""
    if compiles_for(out):
        from flexplan_runtime.kernels.packing import unpack_slabs_cuda

        return unpack_slabs_cuda(data, packing, out)
    width = out.shape[1]
    for rows, slabs in _slabs(out, packing, data):
        at = packing.codes_at(width)
        shared = _numbers(slabs[:, :at], out.dtype).unflatten(1, (packing.params, 1, width)).unbind(1)
        codes = slabs[:, at : at + rows.shape[1] * packing.code_bytes(width)].unflatten(1, (rows.shape[1], -1))
        rows.copy_(_decode(_read_codes(codes, packing, width), list(shared), packing))
    return None


def unpack_rows(packed: Tensor, packing: Packing, out: Tensor) -> None:
    """(R, vector_bytes) uint8, one vector a row, into (R, C)."""
    if compiles_for(out):
        from flexplan_runtime.kernels.packing import unpack_rows_cuda

        return unpack_rows_cuda(packed, packing, out)
    step = max(1, CHUNK // out.shape[1])
    for vectors, rows in zip(packed.split(step), out.split(step), strict=True):
        rows.copy_(unpack_vectors(vectors, packing, out.shape[1], out.dtype))
    return None


# -- groups to codes and what they share, and back ---------------------------------------------------------------------
def _encode(x: Tensor, dim: int, packing: Packing) -> tuple[Tensor, list[Tensor]]:
    """Codes of groups along ``dim``, and their scales and minima in the dtype of ``x``, ``dim`` being 1.

    Where the scale is 0 the code is that of the value 0, or of the minimum.
    """
    dtype, levels, middle = x.dtype, 2**packing.num_bits - 1, 2 ** (packing.num_bits - 1)
    x = x.float()
    if packing.symmetric:
        shared = [(x.abs().amax(dim, keepdim=True) / (middle - 1)).to(dtype)]
        nearest = middle + 0.5
    else:
        low, high = x.amin(dim, keepdim=True), x.amax(dim, keepdim=True)
        shared = [((high - low) / levels).to(dtype), low.to(dtype)]
        x = x - shared[1].float()
        nearest = 0.5
    scale = shared[0].float()
    steps = x / scale.masked_fill(scale == 0, torch.inf)
    return steps.add_(nearest).floor_().clamp_(0, levels).to(torch.uint8), shared


def _decode(codes: Tensor, shared: list[Tensor], packing: Packing) -> Tensor:
    """Float32."""
    numbers = codes.float()
    if packing.symmetric:
        return numbers.sub_(2 ** (packing.num_bits - 1)).mul_(shared[0].float())
    return numbers.mul_(shared[0].float()).add_(shared[1].float())


# -- codes to bytes and back -------------------------------------------------------------------------------------------
def _write_codes(codes: Tensor, packing: Packing, out: Tensor) -> None:
    """(..., W) to (..., code_bytes)."""
    if packing.num_bits == 8:
        out.copy_(codes)
        return
    low, high = codes[..., : out.shape[-1]], codes[..., out.shape[-1] :]
    out.copy_(low)
    out[..., : high.shape[-1]] |= high << 4


def _read_codes(data: Tensor, packing: Packing, width: int) -> Tensor:
    """(..., code_bytes) to (..., W)."""
    return data if packing.num_bits == 8 else torch.cat([data & 15, data >> 4], -1)[..., :width]


def _numbers(data: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes, aligned or not, as numbers."""
    return data.clone(memory_format=torch.contiguous_format).view(dtype)


# -- pieces ------------------------------------------------------------------------------------------------------------
def _grouped(x: Tensor, packing: Packing) -> Tensor:
    """(..., W) to (..., groups, group_size); the last value is repeated where the last group is short."""
    width = x.shape[-1]
    size = min(packing.group_size, width)
    missing = -width % size
    if missing:
        x = torch.cat([x, x[..., -1:].expand(*x.shape[:-1], missing)], -1)
    return x.unflatten(-1, (-1, size))


def _slabs(matrix: Tensor, packing: Packing, data: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(slabs, rows, C) of the matrix beside (slabs, bytes) of the data: some whole slabs at a time, then the rest."""
    (rows, width), size = matrix.shape, packing.group_size
    slab_bytes, whole = packing.slab_bytes(width), rows // size
    step = max(1, CHUNK // (size * width))
    for first in range(0, whole, step):
        last = min(first + step, whole)
        yield (
            matrix[first * size : last * size].unflatten(0, (-1, size)),
            data[first * slab_bytes : last * slab_bytes].unflatten(0, (-1, slab_bytes)),
        )
    if rows > whole * size:
        yield matrix[None, whole * size :], data[None, whole * slab_bytes : packing.slabs_bytes(rows, width)]
