"""Packed weights: rows of a tensor packed where they are stored, and unpacked into the tensor a layer computes with."""

from __future__ import annotations

import torch
from torch import Tensor

from flexplan.model import Coding, WeightTensor
from flexplan.placement import Piece
from flexplan.units import round_up
from flexplan_runtime.kernels.codes import decode_rows
from flexplan_runtime.kernels.quantisation import pack_rows, pack_slabs, unpack_rows, unpack_slabs
from flexplan_runtime.weights.checkpoint import WeightReader

_ELEMENTS = 1 << 22  # packed at a time: the float32 copies of quantising stay small


def read_packed(reader: WeightReader, piece: Piece, out: Tensor, dtype: torch.dtype) -> None:
    """A piece of a checkpoint, in its own codes or quantised, into the bytes of ``out``."""
    tensor, at = piece.tensor, 0
    if isinstance(tensor.packing, Coding):
        reader.read_codes(tensor, piece.row_lo, piece.rows, out)
        return
    rows = min(piece.rows, round_up(reader.distinct_rows or piece.rows, tensor.grain_rows))
    while at < rows:
        taken = min(chunk_rows(tensor), rows - at)
        start, end = tensor.rows_bytes(at), tensor.rows_bytes(at + taken)
        out[start:end].copy_(quantised(reader, tensor, piece.row_lo + at, taken, dtype))
        at += taken
    while at < piece.rows:
        taken = min(rows, piece.rows - at)
        start, end = tensor.rows_bytes(at), tensor.rows_bytes(at + taken)
        out[start:end].copy_(out[: end - start])
        at += taken


def chunk_rows(tensor: WeightTensor) -> int:
    """Rows that are quantised at a time: whole grains."""
    return max(1, _ELEMENTS // (tensor.cols * tensor.grain_rows)) * tensor.grain_rows


def quantised(reader: WeightReader, tensor: WeightTensor, row: int, rows: int, dtype: torch.dtype) -> Tensor:
    """The bytes of ``rows`` rows from ``row`` on, a grain's beginning."""
    plain = torch.empty(rows, tensor.cols, dtype=dtype)
    reader.read_rows(tensor.name, tensor.layer, row, rows, plain)
    packed = torch.empty(tensor.rows_bytes(rows), dtype=torch.uint8)
    pack(plain, tensor, packed)
    return packed


def pack(plain: Tensor, tensor: WeightTensor, out: Tensor) -> None:
    """(rows, cols) quantised into the bytes of ``out``."""
    assert tensor.packing is not None and not isinstance(tensor.packing, Coding)
    if tensor.packing.down:
        pack_slabs(plain, tensor.packing, out)
    else:
        pack_rows(plain, tensor.packing, out.view(len(plain), -1))


def unpack(data: Tensor, tensor: WeightTensor, out: Tensor) -> None:
    """The bytes of ``data`` into (rows, cols), or copied where they are not packed."""
    packing = tensor.packing
    if packing is None:
        out.copy_(data.view(out.dtype).view(out.shape))
    elif isinstance(packing, Coding):
        decode_rows(data.view(len(out), -1), packing, out)
    elif packing.down:
        unpack_slabs(data, packing, out)
    else:
        unpack_rows(data.view(len(out), -1), packing, out)
