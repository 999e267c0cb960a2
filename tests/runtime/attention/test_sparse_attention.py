"""Sparse attention: the largest weights of the old positions, the newest always, and no other value read."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from flexplan_runtime.attention import HostAttention, scored, sparse_attention
from flexplan_runtime.attention.dense import grain_attention
from flexplan_runtime.kernels.attention_rule import AttentionRule
from flexplan_runtime.kernels.host import GrainAttention, build
from flexplan_runtime.kernels.quantisation import pack_vectors, unpack_vectors
from torch import Tensor

from flexplan.model import Packing

SCALE = 0.3
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, build.COMPILERS)), reason="no C++ compiler")


def by_hand(q_PH: Tensor, k_TH: Tensor, v_TH: Tensor, pad: int, sparsity: float) -> tuple[Tensor, set[int]]:
    """One grain in float64, one position after another; the result and what was kept."""
    newest, real = len(k_TH) - 1, range(pad, len(k_TH))
    exponents = {t: torch.exp(q_PH.double() @ k_TH[t].double() * SCALE) for t in real}
    total = sum(exponents.values())
    weights = {t: e / total for t, e in exponents.items()}
    old = newest - pad
    count = min(max(1, int(sparsity * old)), old)
    kept = [*sorted(range(pad, newest), key=lambda t: -float(weights[t].sum()))[:count], newest]
    share = sum(weights[t] for t in kept)
    return sum((weights[t] / share)[:, None] * v_TH[t].double() for t in kept), set(kept)


@pytest.mark.parametrize("block", [1, 1 << 22])
@pytest.mark.parametrize("sparsity", [0.01, 0.1, 0.35, 0.999])
@pytest.mark.parametrize("heads", [1, 3])
def test_the_largest_weights_and_the_newest_are_kept(
    heads: int, sparsity: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is not kept may be anything: all other values are NaN."""
    monkeypatch.setattr(scored, "BLOCK", block)
    torch.manual_seed(heads)
    pads, context = torch.tensor([0, 7, 38, 39]), 40
    q, pairs = torch.randn(4, heads, 16), torch.randn(4, 2, 45, 16)
    expected = []
    for g, pad in enumerate(pads.tolist()):
        found, kept = by_hand(q[g], pairs[g, 0, :context], pairs[g, 1, :context], pad, sparsity)
        expected.append(found.float())
        pairs[g, 1, [t for t in range(45) if t not in kept]] = math.nan
    out = torch.full_like(q, math.nan)
    HostAttention(q, pairs, pads, AttentionRule(SCALE), out, 2, sparsity=sparsity)(context)
    torch.testing.assert_close(out, torch.stack(expected), rtol=1e-5, atol=1e-6)
    for given in (context, torch.tensor(context)):
        found = sparse_attention(q, pairs, pads, given, AttentionRule(SCALE), sparsity)
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_all_positions_kept_it_is_dense_attention(dtype: torch.dtype) -> None:
    q, pairs, pads = torch.randn(3, 2, 32).to(dtype), torch.randn(3, 2, 50, 32).to(dtype), torch.tensor([0, 4, 49])
    dense = grain_attention(q, pairs[:, 0], pairs[:, 1], pads, SCALE)
    found = sparse_attention(q, pairs, pads, 50, AttentionRule(SCALE), 1.0)
    torch.testing.assert_close(found, dense, rtol=1e-2 if dtype.itemsize == 2 else 1e-5, atol=1e-2)


def test_the_first_token_alone_reads_itself() -> None:
    q, pairs = torch.randn(2, 1, 16), torch.randn(2, 2, 1, 16)
    found = sparse_attention(q, pairs, torch.zeros(2, dtype=torch.int64), 1, AttentionRule(SCALE), 0.1)
    torch.testing.assert_close(found[:, 0], pairs[:, 1, 0])


def test_packed_keys_and_values_give_what_they_stand_for() -> None:
    packing = Packing(4, 16, False, 4)
    packed = torch.empty(3, 2, 30, packing.vector_bytes(32), dtype=torch.uint8)
    pack_vectors(torch.randn(3, 2, 30, 32), packing, packed)
    q, pads = torch.randn(3, 2, 32), torch.tensor([0, 4, 20])
    plain = unpack_vectors(packed, packing, 32, torch.float32)
    found = sparse_attention(q, packed, pads, 25, AttentionRule(SCALE), 0.2, packing)
    torch.testing.assert_close(
        found, sparse_attention(q, plain, pads, 25, AttentionRule(SCALE), 0.2), rtol=1e-5, atol=1e-6
    )


@needs_compiler
@pytest.mark.parametrize("packing", [None, Packing(4, 64, False, 4), Packing(8, 24, True, 4)], ids=str)
@pytest.mark.parametrize("heads", [1, 5, 8])
def test_the_kernel_of_the_host_keeps_the_same(heads: int, packing: Packing | None) -> None:
    """Over several blocks of tokens, laid out by token."""
    torch.manual_seed(heads)
    q, pads = torch.randn(3, heads, 80), torch.tensor([0, 150, 699])
    pairs = torch.randn(3, 2, 700, 80)
    if packing is not None:
        packed = torch.empty(3, 2, 700, packing.vector_bytes(80), dtype=torch.uint8)
        pack_vectors(pairs, packing, packed)
        pairs = packed
    pairs = pairs.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)
    expected = sparse_attention(q, pairs, pads, 700, AttentionRule(0.1), 0.3, packing)
    for threads in [1, 2]:
        out = torch.full_like(q, math.nan)
        assert GrainAttention(q, pairs, pads, 0.1, out, threads, packing, 0.3)()
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_what_the_kernel_is_not_written_for_is_left_to_the_framework() -> None:
    q, pairs, pads = torch.randn(2, 1, 24), torch.randn(2, 2, 30, 24), torch.tensor([0, 3])
    out = torch.full_like(q, math.nan)
    HostAttention(q, pairs, pads, AttentionRule(SCALE), out, 1, sparsity=0.2)(30)
    torch.testing.assert_close(out, sparse_attention(q, pairs, pads, 30, AttentionRule(SCALE), 0.2))
