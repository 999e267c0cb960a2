"""Attention on the host over packed caches: that over the unpacked ones, wherever they lie."""

from __future__ import annotations

import itertools
import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from flexplan_runtime.attention import HostAttention, decode_attention_packed
from flexplan_runtime.attention import packed as packed_attention
from flexplan_runtime.kernels.attention_rule import AttentionRule
from flexplan_runtime.kernels.host import GrainAttention, build
from flexplan_runtime.kernels.quantisation import pack_vectors, unpack_vectors
from torch import Tensor

from flexplan.model import Packing

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, build.COMPILERS)), reason="no C++ compiler")
GRAINS = 3


def packed_pairs(packing: Packing, tokens: int, head_dim: int, dtype: torch.dtype, by_token: bool = False) -> Tensor:
    """(grains, 2, tokens, bytes) in a larger cache, laid out by grain or by token; what is around it is 0xFF."""
    nbytes = packing.vector_bytes(head_dim)
    whole = torch.full((tokens + 3, GRAINS, 2, nbytes), 0xFF, dtype=torch.uint8).permute(1, 2, 0, 3)
    found = (whole if by_token else whole.contiguous())[:, :, :tokens]
    pack_vectors((torch.randn(GRAINS, 2, tokens, head_dim) + 0.5).to(dtype), packing, found)
    return found


def exact(q: Tensor, packed: Tensor, packing: Packing, pads: Tensor) -> Tensor:
    """In float64, over what the codes stand for, rounded to float32."""
    size = q.shape[-1]
    if q.dtype == torch.float32:
        pairs = unpack_vectors(packed, packing, size, q.dtype)
    else:  # scales and minima of 16 bits to those of 32
        at, wide = packing.scales_at(size), Packing(packing.num_bits, packing.group_size, packing.symmetric, 4)
        numbers = packing.params * packing.num_groups(size) * packing.element_bytes
        vectors = torch.zeros(*packed.shape[:-1], wide.vector_bytes(size), dtype=torch.uint8)
        vectors[..., : packing.code_bytes(size)] = packed[..., : packing.code_bytes(size)]
        shared = packed[..., at : at + numbers].contiguous().view(q.dtype).float().view(torch.uint8)
        vectors[..., wide.scales_at(size) : wide.scales_at(size) + 2 * numbers] = shared
        pairs = unpack_vectors(vectors, wide, size, torch.float32)
    mask = (torch.arange(packed.shape[2]) >= pads[:, None])[:, None, None, :]
    k, v = pairs.double().unsqueeze(1).unbind(2)
    return F.scaled_dot_product_attention(q.double()[:, None], k, v, attn_mask=mask)[:, 0]


@needs_compiler
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("num_bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("group", [1, 5, 8])
def test_it_is_attention_over_what_the_codes_stand_for(
    dtype: torch.dtype, num_bits: int, symmetric: bool, group: int
) -> None:
    torch.manual_seed(group)
    sizes = [(32, 32), (64, 64), (64, 16), (80, 64), (128, 64), (128, 24), (128, 1000), (256, 32), (16, 3)]
    for (head_dim, group_size), (tokens, by_token) in itertools.product(sizes, [(1, False), (17, True), (150, False)]):
        packing = Packing(num_bits, group_size, symmetric, dtype.itemsize)
        packed = packed_pairs(packing, tokens, head_dim, dtype, by_token)
        q, pads = torch.randn(GRAINS, group, head_dim).to(dtype), torch.randint(tokens, (GRAINS,))
        expected = exact(q, packed, packing, pads)
        for threads in [1, 2]:
            out = torch.full_like(q, math.nan)
            assert GrainAttention(q, packed, pads, head_dim**-0.5, out, threads, packing)()
            epsilon = torch.finfo(dtype).eps
            torch.testing.assert_close(out.double(), expected, rtol=epsilon, atol=max(epsilon / 2, 1e-5))


@needs_compiler
@pytest.mark.parametrize("num_bits", [4, 8])
def test_the_last_vector_of_memory_may_end_there(num_bits: int) -> None:
    """Nothing behind the cache is read: the page there may not be read at all."""
    import ctypes
    import mmap

    packing, page, tokens = Packing(num_bits, 1000, True, 2), mmap.PAGESIZE, 5
    nbytes = 2 * tokens * packing.vector_bytes(80)
    pages = mmap.mmap(-1, 2 * page)
    memory = torch.frombuffer(pages, dtype=torch.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(memory.data_ptr() + page), ctypes.c_size_t(page), 0) == 0
    packed = memory[page - nbytes : page].view(1, 2, tokens, -1)
    pack_vectors(torch.randn(1, 2, tokens, 80).bfloat16(), packing, packed)
    q = torch.randn(1, 1, 80).bfloat16()
    assert GrainAttention(q, packed, None, 0.1, torch.empty_like(q), 1, packing)()


@needs_compiler
def test_padding_is_never_read() -> None:
    packing = Packing(4, 32, False, 4)
    packed, q, pads = packed_pairs(packing, 20, 64, torch.float32), torch.randn(GRAINS, 1, 64), torch.tensor([7, 19, 0])
    packed[0, :, :7] = packed[1, :, :19] = 0xFF  # scales that are not numbers
    out = torch.empty_like(q)
    assert GrainAttention(q, packed, pads, 0.1, out, 1, packing)()
    assert out.isfinite().all()


@needs_compiler
def test_few_grains_with_long_contexts_are_cut_for_the_threads() -> None:
    packing = Packing(4, 64, False, 2)
    packed, q = packed_pairs(packing, 3001, 64, torch.bfloat16), torch.randn(GRAINS, 4, 64).bfloat16()
    pads, out = torch.tensor([0, 3000, 7]), torch.empty_like(q)
    assert GrainAttention(q, packed, pads, 64**-0.5, out, 2, packing)()
    torch.testing.assert_close(out.double(), exact(q, packed, packing, pads), rtol=8e-3, atol=4e-3)


@pytest.mark.parametrize("block", [1, 1 << 22])
@pytest.mark.parametrize("head_dim", [24, 64])
def test_the_framework_gives_the_same(head_dim: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel is not written for the head dimension, and for tokens up to a position."""
    monkeypatch.setattr(packed_attention, "BLOCK", block)
    packing = Packing(4, 32, False, 4)
    packed, q = packed_pairs(packing, 30, head_dim, torch.float32), torch.randn(GRAINS, 2, head_dim)
    pads, out = torch.tensor([0, 5, 20]), torch.full_like(q, math.nan)
    HostAttention(q, packed, pads, AttentionRule(head_dim**-0.5), out, 1, packing)(21)
    expected = exact(q, packed[:, :, :21], packing, pads).float()
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    found = decode_attention_packed(q, packed, packing, pads, torch.tensor(20), head_dim**-0.5)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
