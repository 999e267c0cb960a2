"""Codes of a checkpoint to numbers: the rows that `flexplan.model.coding` lays out, decoded in float32, rounded once.

Letters: R rows, C columns, G groups of a row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flexplan.model import Coding
from flexplan_runtime.kernels.availability import compiles_for

CHUNK = 1 << 18  # elements that are float32 at a time: what a core's cache holds
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def decode_rows(data: Tensor, coding: Coding, out: Tensor) -> None:
    """(R, row_bytes) uint8 into (R, C)."""
    if compiles_for(out):
        from flexplan_runtime.kernels.decoding import decode_rows_cuda

        return decode_rows_cuda(data, as_scales(data, coding), coding, out)
    step = max(1, CHUNK // out.shape[1])
    for vectors, rows in zip(data.split(step), out.split(step), strict=True):
        rows.copy_(_decode(vectors, coding, rows.shape[1]))
    return None


def _decode(data: Tensor, coding: Coding, width: int) -> Tensor:
    """(R, C) in float32."""
    groups = coding.num_groups(width)
    numbers = _values(data[:, : coding.code_bytes(width)], coding)[:, :width]
    scales = _scales(data[:, coding.scales_at(width) : coding.zeros_at(width)], coding)
    zeros = data[:, coding.zeros_at(width) : coding.zeros_at(width) + groups].float() if coding.zeros else None
    size = coding.group_size or width
    for g in range(groups):
        columns = numbers[:, g * size : (g + 1) * size]
        if zeros is not None:
            columns.sub_(zeros[:, g : g + 1])
        columns.mul_(scales[:, g : g + 1])
    return numbers


def _values(data: Tensor, coding: Coding) -> Tensor:
    """What codes stand for before they are scaled; whole numbers without zeros of their own count from the middle."""
    if coding.code == "e4m3":
        return data.view(torch.float8_e4m3fn).float()
    codes = data if coding.num_bits == 8 else torch.stack((data & 15, data >> 4), -1).flatten(-2)
    if coding.code == "e2m1":
        return torch.tensor(_E2M1 + tuple(-x for x in _E2M1))[codes.int()]
    return codes.float().sub_(0 if coding.zeros else coding.middle)


def _scales(data: Tensor, coding: Coding) -> Tensor:
    """(R, G) in float32; an exponent of 8 bits is a power of two, 255 no number."""
    data = data.clone(memory_format=torch.contiguous_format)
    if coding.scale != "e8m0":
        return as_scales(data, coding).float()
    return torch.ldexp(torch.ones(data.shape), data.int() - 127).masked_fill_(data == 255, torch.nan)


def as_scales(data: Tensor, coding: Coding) -> Tensor:
    """Bytes as scales; exponents stay bytes."""
    return data if coding.scale == "e8m0" else data.view(_DTYPES[coding.scale])


def scale_bytes(scale: float, coding: Coding) -> Tensor:
    """The bytes of a scale, of the next lower power of two where only such are stored."""
    if coding.scale == "e8m0":
        return torch.tensor([math.frexp(scale)[1] - 1 + 127], dtype=torch.uint8)
    return torch.tensor([scale], dtype=_DTYPES[coding.scale]).view(torch.uint8)
