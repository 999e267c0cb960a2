"""The kernels of CUDA give the bytes and numbers of the framework's code.

On a GPU, or with TRITON_INTERPRET=1 wherever Triton is installed.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from triton_device import DEVICE, DTYPES, MARKS

from flexplan.model import Packing

pytest.importorskip("triton", reason="no Triton")
pytestmark = MARKS

from flexplan_runtime.attention.packed import by_blocks
from flexplan_runtime.kernels import packing as packing_kernels
from flexplan_runtime.kernels.packed_decode_attention import decode_attention_packed_cuda
from flexplan_runtime.kernels.quantisation import pack_slabs, pack_vectors, unpack_slabs, unpack_vectors

KINDS = list(itertools.product([4, 8], [False, True], DTYPES))
kinds = pytest.mark.parametrize(
    ("num_bits", "symmetric", "dtype"), KINDS, ids=[f"{b}-{'sym' if s else 'asym'}-{d}" for b, s, d in KINDS]
)


def random(*shape: int, dtype: torch.dtype) -> Tensor:
    return (torch.randn(*shape) * 3 + 1).to(dtype)


def same(found: Tensor, expected: Tensor) -> None:
    """With float32 scales a fused multiply-add may differ in the last place of the product."""
    if expected.dtype == torch.float32:
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-6, atol=1e-5)
    else:
        assert torch.equal(found.cpu(), expected)


@kinds
@pytest.mark.parametrize(("rows", "width", "group_size"), [(128, 512, 64), (70, 80, 32), (40, 9, 64), (5, 300, 3)])
def test_slabs(num_bits: int, symmetric: bool, dtype: Any, rows: int, width: int, group_size: int) -> None:
    torch.manual_seed(rows)
    packing = Packing(num_bits, group_size, symmetric, dtype.itemsize)
    data = torch.empty(packing.slabs_bytes(rows, width), dtype=torch.uint8)
    pack_slabs(random(rows, width, dtype=dtype), packing, data)
    expected = torch.empty(rows, width, dtype=dtype)
    unpack_slabs(data, packing, expected)
    wide = torch.full((rows, width + 8), 7.0, dtype=dtype, device=DEVICE)
    packing_kernels.unpack_slabs_cuda(data.to(DEVICE), packing, wide[:, :width])
    same(wide[:, :width], expected)
    assert bool((wide[:, width:] == 7).all())


@kinds
@pytest.mark.parametrize(("rows", "width", "group_size"), [(40, 1024, 64), (33, 80, 64), (3, 9, 4), (5, 300, 3)])
def test_rows(num_bits: int, symmetric: bool, dtype: Any, rows: int, width: int, group_size: int) -> None:
    torch.manual_seed(rows)
    packing = Packing(num_bits, group_size, symmetric, dtype.itemsize)
    packed = torch.empty(rows, packing.vector_bytes(width), dtype=torch.uint8)
    pack_vectors(random(rows, width, dtype=dtype), packing, packed)
    out = torch.full((rows, width + 1), 7.0, dtype=dtype, device=DEVICE)
    packing_kernels.unpack_rows_cuda(packed.to(DEVICE), packing, out[:, :width])
    same(out[:, :width], unpack_vectors(packed, packing, width, dtype))
    assert bool((out[:, width:] == 7).all())


@kinds
@pytest.mark.parametrize(("width", "group_size"), [(128, 64), (64, 64), (80, 64), (80, 16), (9, 4), (1, 64), (512, 32)])
def test_packed_bytes_are_those_of_the_framework(
    num_bits: int, symmetric: bool, dtype: Any, width: int, group_size: int
) -> None:
    torch.manual_seed(width)
    packing = Packing(num_bits, group_size, symmetric, dtype.itemsize)
    x = random(3, 2, 5, width, dtype=dtype).transpose(1, 2)
    x[0, 0], x[0, 1, :, 1:] = 0.3, 0.0
    nbytes = packing.vector_bytes(width)
    expected = torch.empty(*x.shape[:-1], nbytes, dtype=torch.uint8)
    pack_vectors(x, packing, expected)
    cache = torch.full((5, 2, 3, nbytes + 4), 0xAA, dtype=torch.uint8, device=DEVICE)
    out = cache.permute(2, 0, 1, 3)[..., :nbytes]
    on_device = torch.empty(3, 2, 5, width, dtype=dtype, device=DEVICE).transpose(1, 2).copy_(x)
    assert packing_kernels.can_pack(on_device, out)
    packing_kernels.pack_vectors_cuda(on_device, packing, out)
    assert torch.equal(out.cpu(), expected)
    assert bool((cache[..., nbytes:] == 0xAA).all())


def test_many_vectors_are_packed_by_full_programs() -> None:
    packing, x = Packing(4, 64, False, 2), random(3000, 128, dtype=torch.float16)
    expected = torch.empty(3000, packing.vector_bytes(128), dtype=torch.uint8)
    pack_vectors(x, packing, expected)
    found = torch.empty_like(expected, device=DEVICE)
    packing_kernels.pack_vectors_cuda(x.to(DEVICE), packing, found)
    assert torch.equal(found.cpu(), expected)


@kinds
@pytest.mark.parametrize(("head_dim", "group_size"), [(128, 64), (64, 64), (64, 16), (80, 64), (80, 16)])
def test_decode_attention(num_bits: int, symmetric: bool, dtype: Any, head_dim: int, group_size: int) -> None:
    """Any strides, padding before the first token, and nothing read behind the position."""
    torch.manual_seed(head_dim)
    grains, heads, tokens, position = 3, 2, 150, 130
    packing = Packing(num_bits, group_size, symmetric, dtype.itemsize)
    nbytes = packing.vector_bytes(head_dim)
    by_token = torch.full((tokens, grains, 2, nbytes), 0xFF, dtype=torch.uint8)  # scales of 0xffff.. are NaN
    packed = by_token.permute(1, 2, 0, 3)
    pack_vectors(random(grains, 2, position + 1, head_dim, dtype=dtype), packing, packed[:, :, : position + 1])
    q, pads = random(grains, heads, head_dim, dtype=dtype), torch.tensor([0, 70, position])
    for cache in (packed, packed.contiguous()):
        found = decode_attention_packed_cuda(
            q.to(DEVICE), cache.to(DEVICE), packing, pads.to(DEVICE), torch.tensor(position, device=DEVICE), 0.1
        )
        expected = by_blocks(q, cache[:, :, : position + 1], packing, pads, 0.1)
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-2)
