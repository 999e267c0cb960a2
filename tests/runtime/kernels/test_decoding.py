"""The kernel that decodes a checkpoint's codes on CUDA gives the numbers of the framework's code, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from triton_device import DEVICE, DTYPES, MARKS

from flexplan.model import Coding

pytest.importorskip("triton", reason="no Triton")
pytestmark = MARKS

from flexplan_runtime.kernels.codes import as_scales, decode_rows
from flexplan_runtime.kernels.decoding import decode_rows_cuda

CODINGS = [
    Coding("e4m3", "float32", 128),
    Coding("e4m3", "bfloat16", 20),
    Coding("e4m3", "float32"),
    Coding("e2m1", "e8m0", 32),
    Coding("uint4", "float16", 64, zeros=True),
    Coding("uint4", "float16", 24, zeros=True),
    Coding("uint4", "bfloat16", 128),
    Coding("uint8", "float16", zeros=True),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("coding", CODINGS, ids=str)
@pytest.mark.parametrize(("rows", "width"), [(40, 512), (19, 300), (3, 9)])
def test_rows(coding: Coding, dtype: Any, rows: int, width: int) -> None:
    """Every code, whatever stands between and behind."""
    torch.manual_seed(rows)
    data = torch.randint(256, (rows, coding.row_bytes(width)), dtype=torch.uint8)
    if coding.code == "e4m3":
        data[:, : coding.code_bytes(width)][data[:, : coding.code_bytes(width)] & 127 == 127] = 3  # no number
    scales = data[:, coding.scales_at(width) : coding.zeros_at(width)]
    if coding.scale == "e8m0":
        scales.copy_(scales % 20 + 110)
        scales[0, 0] = 0
    else:
        numbers = torch.rand(rows, coding.num_groups(width)).to(getattr(torch, coding.scale))
        scales.copy_(numbers.view(torch.uint8))
    expected = torch.empty(rows, width, dtype=dtype)
    decode_rows(data, coding, expected)
    wide = torch.full((rows, width + 8), 7.0, dtype=dtype, device=DEVICE)
    data = data.to(DEVICE)
    decode_rows_cuda(data, as_scales(data, coding), coding, wide[:, :width])
    assert torch.equal(wide[:, :width].cpu(), expected)
    assert bool((wide[:, width:] == 7).all())


@pytest.mark.parametrize("coding", [Coding("e4m3", "float32"), Coding("e2m1", "e8m0", 32)], ids=str)
def test_what_is_no_number_stays_none(coding: Coding) -> None:
    data = torch.full((1, coding.row_bytes(32)), 255, dtype=torch.uint8, device=DEVICE)
    out = torch.empty(1, 32, device=DEVICE)
    decode_rows_cuda(data, as_scales(data, coding), coding, out)
    assert bool(out.isnan().all())
