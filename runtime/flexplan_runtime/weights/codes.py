"""Rows of a quantised checkpoint, brought into the order of `flexplan.model.coding`: nothing is rounded.

Letters: R rows (outputs), C columns, G groups of a row, P whole numbers to 32 bits, N rows of what is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from flexplan.errors import ModelFilesError
from flexplan.model.checkpoint import Source, StoredCodes, StoredTensor
from flexplan_runtime.weights.files import CHUNK_BYTES, bytes_of, read_into

_AWQ_SLOTS = (0, 4, 1, 5, 2, 6, 3, 7)  # where in 32 bits the outputs lie, one after the other
_AWQ_ROWS = 512  # rows that are spread to 32 bits a code at a time
_ITEM_BYTES = {"F8_E4M3": 1, "F8_E8M0": 1, "U8": 1, "I32": 4, "F32": 4, "F16": 2, "BF16": 2}


class _Rows(NamedTuple):
    """Bytes of codes (N, code_bytes or more), of scales (N, G x scale_bytes), and zeros (N, G)."""

    codes: Tensor
    scales: Tensor
    zeros: Tensor | None = None


def read_coded(stored: StoredCodes, source: Source, row: int, out: Tensor) -> None:
    """Fill (N, row_bytes) with rows of a source from `row` on; StorageError if a file changed."""
    read, by_rows = _READERS[stored.stored.layout]
    step = max(1, CHUNK_BYTES // out.shape[1]) if by_rows else len(out)
    for part in out.split(step):
        _lay_out(read(stored, source, row, len(part)), stored, source.cols, part)
        row += len(part)


def _lay_out(rows: _Rows, stored: StoredCodes, width: int, out: Tensor) -> None:
    coding = stored.stored.coding
    ends = coding.code_bytes(width), coding.scales_at(width), coding.zeros_at(width)
    out.zero_()
    out[:, : ends[0]] = rows.codes[:, : ends[0]]
    out[:, ends[1] : ends[2]] = rows.scales
    if rows.zeros is not None:
        out[:, ends[2] : ends[2] + coding.num_groups(width)] = rows.zeros


# -- layouts: row by row -----------------------------------------------------------------------------------------------
def _fp8(stored: StoredCodes, source: Source, row: int, rows: int) -> _Rows:
    """A scale may stand for many rows: each row gets its own."""
    per_row = stored.stored.coding.num_groups(source.cols)
    grid = _stored_rows(stored.scales, per_row)
    every = stored.stored.scale_rows
    of_row = torch.arange(row, row + rows) // every if every else torch.zeros(rows, dtype=torch.int64)
    return _Rows(_stored_rows(stored.codes, source.cols, row, rows), grid[of_row])


def _mxfp4(stored: StoredCodes, source: Source, row: int, rows: int) -> _Rows:
    groups = stored.stored.coding.num_groups(source.cols)
    codes = _stored_rows(stored.codes, groups * stored.stored.coding.group_size // 2, row, rows)
    return _Rows(codes, _stored_rows(stored.scales, groups, row, rows))


def _packed(stored: StoredCodes, source: Source, row: int, rows: int) -> _Rows:
    """The zeros of P rows are packed together."""
    coding = stored.stored.coding
    words = -(-source.cols // (32 // coding.num_bits))
    codes = _stored_rows(stored.codes, words, row, rows)
    scales = _stored_rows(stored.scales, coding.num_groups(source.cols), row, rows)
    if stored.zeros is None:
        return _Rows(codes, scales)
    zeros = _unpacked(_matrix(stored.zeros).T, coding.num_bits)
    return _Rows(codes, scales, zeros[:, row : row + rows].T)


# -- layouts: down the input, so that a tensor is read whole -----------------------------------------------------------
def _gptq(stored: StoredCodes, source: Source, row: int, rows: int) -> _Rows:
    """Version 1 stores zeros less one."""
    coding, wanted = stored.stored.coding, slice(row, row + rows)
    if stored.order is not None:
        _refuse_other_order(stored.order, coding.group_size or source.cols)
    codes = _bytes(_matrix(stored.codes)[:, wanted].T)
    zeros = _unpacked(_whole_zeros(stored), coding.num_bits)
    if stored.stored.layout == "gptq":
        zeros = (zeros + 1) & ((1 << coding.num_bits) - 1)
    return _Rows(codes, _turned_scales(stored, wanted), zeros[:, wanted].T)


def _awq(stored: StoredCodes, source: Source, row: int, rows: int) -> _Rows:
    codes = torch.empty(rows, -(-source.cols // 2), dtype=torch.uint8)
    words = _matrix(stored.codes)
    for lo in range(0, rows, _AWQ_ROWS):
        hi = min(lo + _AWQ_ROWS, rows)
        found = _awq_rows(words, row + lo, row + hi)
        codes[lo:hi] = found[:, ::2]
        codes[lo:hi, : source.cols // 2] |= found[:, 1::2] << 4
    zeros = _awq_rows(_whole_zeros(stored), row, row + rows)
    return _Rows(codes, _turned_scales(stored, slice(row, row + rows)), zeros)


def _awq_rows(words: Tensor, lo: int, hi: int) -> Tensor:
    """Outputs lo .. hi of (C, R / P) as (N, C)."""
    first = lo // 8
    found = _unpacked(words[:, first : -(-hi // 8)], 4, _AWQ_SLOTS)
    return found[:, lo - first * 8 : hi - first * 8].T


def _whole_zeros(stored: StoredCodes) -> Tensor:
    assert stored.zeros is not None, "this layout stores zeros"
    return _matrix(stored.zeros)


def _turned_scales(stored: StoredCodes, wanted: slice) -> Tensor:
    """Scales (G, R) of the wanted rows, as bytes (N, G x scale_bytes)."""
    size = stored.stored.coding.scale_bytes
    whole = _stored_rows(stored.scales, stored.scales.shape[-1]).unflatten(1, (-1, size))
    return whole[:, wanted].transpose(0, 1).flatten(1)


def _refuse_other_order(order: StoredTensor, group: int) -> None:
    found = _stored_rows(order, order.shape[0]).view(torch.int32)[0]
    if not torch.equal(found.long(), torch.arange(len(found)) // group):
        message = f"{order.file.path}: columns are grouped in another order than they lie in (desc_act)"
        raise ModelFilesError("FP513", message, fix="take a checkpoint that was quantised without desc_act")


# -- tensors of a file -------------------------------------------------------------------------------------------------
def _stored_rows(stored: StoredTensor, elements: int, row: int = 0, rows: int | None = None) -> Tensor:
    """Rows of so many elements each as bytes; all of them where their number is not given."""
    size = elements * _ITEM_BYTES[stored.dtype_name]
    if rows is None:
        rows = torch.Size(stored.shape).numel() // elements
    out = torch.empty(rows, size, dtype=torch.uint8)
    read_into(stored.file, stored.offset + row * size, bytes_of(out))
    return out


def _matrix(stored: StoredTensor) -> Tensor:
    """A matrix of whole numbers of 32 bits."""
    return _stored_rows(stored, stored.shape[-1]).view(torch.int32)


def _bytes(words: Tensor) -> Tensor:
    return words.contiguous().view(torch.uint8)


def _unpacked(words: Tensor, bits: int, slots: tuple[int, ...] | None = None) -> Tensor:
    """(A, B) of 32 bits to (A, B x P) of a byte each, the lowest first or as `slots` says."""
    shifts = torch.tensor(slots or range(32 // bits), dtype=torch.int32) * bits
    return ((words[..., None] >> shifts) & ((1 << bits) - 1)).to(torch.uint8).flatten(-2)


_READERS: Mapping[str, tuple[Callable[[StoredCodes, Source, int, int], _Rows], bool]] = {
    "fp8": (_fp8, True),
    "mxfp4": (_mxfp4, True),
    "packed": (_packed, True),
    "gptq": (_gptq, False),
    "gptq_v2": (_gptq, False),
    "awq": (_awq, False),
}
"""How each layout is read, and whether some rows of it can be read without the others."""
