"""Quantised numbers: bytes as laid out, errors within half a step, and the same back from any memory."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from flexplan_runtime.kernels import quantisation
from flexplan_runtime.kernels.quantisation import pack_slabs, pack_vectors, unpack_rows, unpack_slabs, unpack_vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flexplan.model import Packing

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
BITS = [4, 8]


def packing_of(num_bits: int, group_size: int, symmetric: bool, dtype: torch.dtype) -> Packing:
    return Packing(num_bits, group_size, symmetric, dtype.itemsize)


def packed_vectors(x: Tensor, packing: Packing) -> Tensor:
    out = torch.full((*x.shape[:-1], packing.vector_bytes(x.shape[-1])), 0xAA, dtype=torch.uint8)
    pack_vectors(x, packing, out)
    return out


def packed_slabs(x: Tensor, packing: Packing) -> Tensor:
    out = torch.full((packing.slabs_bytes(*x.shape),), 0xAA, dtype=torch.uint8)
    pack_slabs(x, packing, out)
    return out


def within_half_a_step(x: Tensor, found: Tensor, group_size: int, symmetric: bool, num_bits: int) -> bool:
    """Groups along the last dimension.  Half a step of the true scale, and what rounding scale and result may add."""
    epsilon = torch.finfo(x.dtype).eps
    for values, back in zip(x.double().split(group_size, -1), found.double().split(group_size, -1), strict=True):
        most, least = values.amax(-1, keepdim=True), values.amin(-1, keepdim=True)
        reach = 2 * values.abs().amax(-1, keepdim=True) if symmetric else most - least
        step = reach / (2**num_bits - 1 - symmetric)
        rounded = epsilon * (reach + torch.maximum(most.abs(), least.abs()))
        tiny = 2**num_bits * torch.finfo(x.dtype).tiny  # a scale may lie among the subnormal numbers
        if bool(((values - back).abs() > step / 2 + rounded + tiny).any()):
            return False
    return True


def test_the_bytes_of_a_small_vector_are_those_written_by_hand() -> None:
    """Groups 0..15 by 3 and the constant 5: scales 3 and 0, minima 0 and 5; code bytes pair elements b and b + 3."""
    x = torch.tensor([0.0, 45.0, 9.0, 5.0, 5.0])
    packing = Packing(4, 3, False, 4)
    found = packed_vectors(x, packing)
    numbers = torch.tensor([3.0, 0.0, 0.0, 5.0]).view(torch.uint8).tolist()
    assert found.tolist() == [0 | 0 << 4, 15 | 0 << 4, 3, 0, *numbers]
    assert unpack_vectors(found, packing, 5, torch.float32).tolist() == x.tolist()


def test_the_bytes_of_a_small_symmetric_vector_are_those_written_by_hand() -> None:
    x = torch.tensor([-127.0, 2.0, 0.0, 127.0], dtype=torch.bfloat16)
    found = packed_vectors(x, Packing(8, 4, True, 2))
    assert found.tolist() == [1, 130, 128, 255, *torch.tensor([1.0]).bfloat16().view(torch.uint8).tolist(), 0, 0]


def test_the_bytes_of_a_small_slab_are_those_written_by_hand() -> None:
    """Two rows of three columns: scales 1, 2, 0, minima 1, -10, 7, then a row of codes 0 0 0 and one of 15 15 0."""
    x = torch.tensor([[1.0, -10.0, 7.0], [16.0, 20.0, 7.0]])
    packing = Packing(4, 2, False, 4)
    found = packed_slabs(x, packing)
    numbers = torch.tensor([1.0, 2.0, 0.0, 1.0, -10.0, 7.0]).view(torch.uint8).tolist()
    assert found.tolist() == [*numbers, 0, 0, 15, 15, 0, 0, 0, 0]
    back = torch.empty_like(x)
    unpack_slabs(found, packing, back)
    assert torch.equal(back, x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("num_bits", BITS)
@pytest.mark.parametrize(("width", "group_size"), [(128, 64), (80, 64), (7, 3), (1, 1), (33, 100), (64, 32), (2, 1)])
def test_values_come_back_within_half_a_step(
    width: int, group_size: int, num_bits: int, symmetric: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(width)
    packing = packing_of(num_bits, group_size, symmetric, dtype)
    x = (torch.randn(5, 3, width) * 3 + 1).to(dtype)
    found = unpack_vectors(packed_vectors(x, packing), packing, width, dtype)
    assert found.dtype == dtype
    assert within_half_a_step(x, found, group_size, symmetric, num_bits)
    rows = torch.empty_like(x[:, 0])
    unpack_rows(packed_vectors(x[:, 0], packing), packing, rows)
    assert torch.equal(rows, found[:, 0])


@pytest.mark.parametrize("chunk", [1, 1 << 22])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("num_bits", BITS)
@pytest.mark.parametrize(
    ("rows", "width", "group_size"), [(128, 32, 64), (70, 9, 32), (5, 1, 64), (6, 7, 1), (4, 2, 2)]
)
def test_slabs_come_back_within_half_a_step(
    rows: int, width: int, group_size: int, num_bits: int, symmetric: bool, dtype: torch.dtype, chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(quantisation, "CHUNK", chunk)
    torch.manual_seed(rows)
    packing = packing_of(num_bits, group_size, symmetric, dtype)
    x = (torch.randn(rows, width) * 3 + 1).to(dtype)
    found = torch.full_like(x, math.nan)
    unpack_slabs(packed_slabs(x, packing), packing, found)
    assert within_half_a_step(x.T, found.T, group_size, symmetric, num_bits)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_finite_values_come_back_within_half_a_step(data: Any) -> None:
    dtype, num_bits = data.draw(st.sampled_from(DTYPES)), data.draw(st.sampled_from(BITS))
    symmetric, group_size = data.draw(st.booleans()), data.draw(st.integers(1, 40))
    largest = 60000.0 if dtype == torch.float16 else 2.0**100
    values = st.lists(st.floats(-largest, largest, width=16 if dtype == torch.float16 else 32), min_size=1, max_size=70)
    x = torch.tensor(data.draw(values), dtype=torch.float32).to(dtype)
    packing = packing_of(num_bits, group_size, symmetric, dtype)
    found = unpack_vectors(packed_vectors(x, packing), packing, len(x), dtype)
    assert within_half_a_step(x, found, group_size, symmetric, num_bits)
    slab = torch.empty(len(x), 1, dtype=dtype)
    unpack_slabs(packed_slabs(x[:, None], packing), packing, slab)
    assert torch.equal(slab[:, 0], found)  # the same groups, laid out down a column


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_bits", BITS)
def test_equal_values_come_back_exactly(num_bits: int, dtype: torch.dtype) -> None:
    x = torch.tensor([[0.1] * 64, [-3.7] * 64, [0.0] * 64, [1e-6] * 64]).to(dtype)
    packing = packing_of(num_bits, 64, False, dtype)
    assert torch.equal(unpack_vectors(packed_vectors(x, packing), packing, 64, dtype), x)
    zeros, packing = torch.zeros(2, 64, dtype=dtype), packing_of(num_bits, 64, True, dtype)
    back = unpack_vectors(packed_vectors(zeros, packing), packing, 64, dtype)
    assert torch.equal(back.view(torch.uint8), zeros.view(torch.uint8))  # not -0


def test_codes_are_chosen_for_the_scale_that_is_stored() -> None:
    """In bfloat16 100 / 15 becomes 6.65625: the step nearest to 69.9 is then 11 (73.2), or 10 (66.6) by 0.1."""
    x = torch.tensor([0.0, 100.0, 69.9, 69.5]).bfloat16()
    packing = Packing(4, 4, False, 2)
    packed = packed_vectors(x, packing)
    scale = packed[2:4].clone().view(torch.bfloat16).double()
    choices = torch.arange(16).double() * scale
    best = [int((choices - value).abs().argmin()) for value in x.double()]
    assert packed[:2].tolist() == [best[0] | best[2] << 4, best[1] | best[3] << 4]


def test_packed_vectors_may_lie_anywhere() -> None:
    packing, x = Packing(4, 32, False, 2), torch.randn(4, 2, 6, 64).bfloat16()
    nbytes = packing.vector_bytes(64)
    by_token = torch.zeros(6 * 4 * 2 * nbytes + 1, dtype=torch.uint8)[1:]  # an odd address
    out = by_token.view(6, 4, 2, nbytes).permute(1, 2, 0, 3)
    pack_vectors(x, packing, out)
    assert torch.equal(out, packed_vectors(x, packing))
    expected = unpack_vectors(packed_vectors(x, packing), packing, 64, x.dtype)
    assert torch.equal(unpack_vectors(out, packing, 64, x.dtype), expected)
