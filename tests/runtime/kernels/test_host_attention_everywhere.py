"""Attention on the host by every arithmetic there is, held against float64: any shape, pages, several new tokens."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from flexplan_runtime.kernels.host import GrainAttention, Pages, build, kernel, uses_tiles
from flexplan_runtime.kernels.quantisation import unpack_vectors
from torch import Tensor

from flexplan.model import Packing

pytestmark = pytest.mark.skipif(not any(map(shutil.which, build.COMPILERS)), reason="no C++ compiler")
NEEDED = {"native": "", "avx512": "avx512f", "avx2": "avx2", "baseline": ""}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])


def forget() -> None:
    build._library.cache_clear()
    kernel._kernel.cache_clear()


def processor_has(instructions: str) -> bool:
    """By what Linux tells; elsewhere only what needs nothing is tried."""
    told = Path("/proc/cpuinfo")
    return not instructions or (told.exists() and instructions in told.read_text().split())


@pytest.fixture(params=["tiles", *NEEDED], autouse=True)
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The kernel compiled for less than this processor has, or for all of it."""
    name = "native" if request.param == "tiles" else request.param
    if not processor_has(NEEDED[name]):
        pytest.skip(f"this processor has no {NEEDED[name]}")
    monkeypatch.setenv(build.CHOICE, name)
    forget()
    if request.param == "tiles" and not uses_tiles():
        pytest.skip("no AMX tiles: this processor, compiler or system lacks them")
    if request.param == "native" and uses_tiles():
        pytest.skip("the same as tiles")
    yield request.param
    forget()


@dataclass(frozen=True, slots=True)
class Shape:
    """Grains, new tokens, query heads of one KV head, head dim, context, tokens of a page."""

    grains: int
    new: int
    group: int
    head_dim: int
    context: int
    page: int

    @classmethod
    def drawn(cls, draw: random.Random, most_context: int = 400) -> Shape:
        new = draw.choice([1, 1, 1, 2, 3, 5, 8])
        context = draw.choice([new, new + draw.randrange(40), new + draw.randrange(most_context)])
        page = draw.choice([context, 5, 16, 32, 48, 256])
        head_dim = draw.choice([16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 256])
        return cls(draw.choice([1, 3]), new, draw.choice([1, 2, 3, 4, 5, 7, 8, 9, 16, 17]), head_dim, context, page)

    @property
    def pages(self) -> int:
        return -(-self.context // self.page)


def draws(seed: str, count: int) -> Iterator[tuple[Shape, Tensor, Tensor]]:
    """Shapes, their queries (G, N, P, H) and the padding of their grains."""
    draw = random.Random(seed)
    torch.manual_seed(len(seed))
    for _ in range(count):
        shape = Shape.drawn(draw)
        q = torch.randn(shape.grains, shape.new, shape.group, shape.head_dim)
        yield shape, q, torch.randint(shape.context - shape.new + 1, (shape.grains,))


def paged(pairs: Tensor, shape: Shape, filler: float = math.nan) -> list[Tensor]:
    """Tokens of (G, 2, C, X) in pages of their own, somewhere in memory; around them is what must not be read."""
    pages = []
    for first in range(0, shape.context, shape.page):
        part = pairs[:, :, first : first + shape.page]
        room = torch.full((len(pairs) + 1, 2, shape.page + 1, pairs.shape[3]), filler).to(pairs.dtype)
        page = room[: len(pairs), :, : part.shape[2]]
        pages.append(page.copy_(part))
    return pages


def exact(q: Tensor, pairs: Tensor, pads: Tensor, scale: float) -> Tensor:
    """(G, N, P, H) in float64: each new token sees what is before it, and itself."""
    q, (k, v) = q.double(), pairs.double().unbind(1)
    new, context = q.shape[1], k.shape[1]
    place = torch.arange(context)
    seen = (place >= pads[:, None, None]) & (place <= (context - new + torch.arange(new))[:, None])
    scores = torch.einsum("gnph,gch->gnpc", q, k) * scale
    weights = scores.masked_fill(~seen[:, :, None], -math.inf).softmax(-1)
    return torch.einsum("gnpc,gch->gnph", weights, v)


def assert_as_rounded(found: Tensor, expected: Tensor, slack: float = 1e-5) -> None:
    """Nothing but the rounding to its dtype, and what float32 sums lose."""
    half = torch.finfo(found.dtype).eps / 2
    torch.testing.assert_close(found.double(), expected, rtol=1.01 * half, atol=slack)


@each_dtype
@pytest.mark.parametrize("threads", [1, 2])
def test_it_is_exact_up_to_the_rounding_of_its_result(dtype: torch.dtype, threads: int) -> None:
    for shape, q, pads in draws(f"plain {dtype} {threads}", 40):
        pairs = torch.randn(shape.grains, 2, shape.context, shape.head_dim).to(dtype)
        q, scale = q.to(dtype), shape.head_dim**-0.5
        out = torch.full_like(q, math.nan)
        assert GrainAttention(q, Pages.of(paged(pairs, shape)), pads, scale, out, threads)()
        assert_as_rounded(out, exact(q, pairs, pads, scale), 3e-5)


@pytest.mark.parametrize("num_bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_packed_pages_are_what_their_codes_stand_for(dtype: torch.dtype, num_bits: int) -> None:
    """Scales and minima are powers of two, so that the framework unpacks them without a rounding."""
    draw = random.Random(num_bits)
    for shape, q, pads in draws(f"packed {dtype} {num_bits}", 30):
        group_size, symmetric, scale = draw.choice([32, 64, 1000, 24]), draw.random() < 0.3, shape.head_dim**-0.5
        packing = Packing(num_bits, group_size, symmetric, dtype.itemsize)
        wide = Packing(num_bits, group_size, symmetric, 4)
        codes = torch.randint(1 << num_bits, (shape.grains, 2, shape.context, packing.code_bytes(shape.head_dim)))
        packed = with_numbers(codes, packing, shape.head_dim, dtype)
        pairs = unpack_vectors(
            with_numbers(codes, wide, shape.head_dim, torch.float32), wide, shape.head_dim, torch.float32
        )
        q, pages = q.to(dtype), paged(packed, shape, 255.0)
        out = torch.full_like(q, math.nan)
        assert GrainAttention(q, Pages.of(pages), pads, scale, out, 2, packing)()
        assert_as_rounded(out, exact(q, pairs, pads, scale), 1e-4)


def with_numbers(codes: Tensor, packing: Packing, head_dim: int, dtype: torch.dtype) -> Tensor:
    """Vectors of these codes and scales of 2^-3 or 2^-4 (of fewer bits larger), minima of -1."""
    groups = packing.num_groups(head_dim)
    scales = 2.0 ** -(torch.arange(groups) % 2 + packing.num_bits - 1)
    numbers = torch.cat([scales] if packing.symmetric else [scales, torch.full((groups,), -1.0)]).to(dtype)
    vectors = torch.zeros(*codes.shape[:-1], packing.vector_bytes(head_dim), dtype=torch.uint8)
    vectors[..., : codes.shape[-1]] = codes
    at, nbytes = packing.scales_at(head_dim), numbers.numel() * dtype.itemsize
    vectors[..., at : at + nbytes] = numbers.view(torch.uint8)
    return vectors


@each_dtype
def test_rows_have_pages_of_their_own(dtype: torch.dtype) -> None:
    """Three rows of two KV heads, their pages of 16 tokens anywhere in one arena."""
    rows, heads, tokens, head_dim, context = 3, 2, 16, 64, 71
    count = -(-context // tokens)
    arena = torch.randn(rows * count + 2, heads, 2, tokens, head_dim).to(dtype)
    table = torch.randperm(len(arena))[: rows * count].view(rows, count)
    size = arena.element_size()
    keys = arena.data_ptr() + table * arena.stride(0) * size
    addresses = torch.stack([keys, keys + arena.stride(2) * size])
    pages = Pages(addresses, tokens, heads, arena.stride(1) * size, arena.stride(3) * size, (arena,), count * tokens)
    q = torch.randn(rows * heads, 5, head_dim).to(dtype)
    out, pads = torch.full_like(q, math.nan), torch.randint(context, (rows * heads,))
    assert GrainAttention(q, pages, pads, 0.125, out, 2)(context)
    pairs = arena[table].permute(0, 2, 3, 1, 4, 5).reshape(rows * heads, 2, count * tokens, head_dim)[:, :, :context]
    assert_as_rounded(out, exact(q[:, None], pairs, pads, 0.125)[:, 0], 3e-5)


@each_dtype
def test_long_contexts_that_are_cut_are_masked_in_every_part(dtype: torch.dtype) -> None:
    shape = Shape(1, 8, 2, 64, 2600, 256)
    pairs, q = torch.randn(1, 2, shape.context, 64).to(dtype), torch.randn(1, 8, 2, 64).to(dtype)
    out, pads = torch.full_like(q, math.nan), torch.tensor([2592])
    for pad in (0, 1300, 2592):
        pads.fill_(pad)
        assert GrainAttention(q, Pages.of(paged(pairs, shape)), pads, 0.125, out, 2)()
        assert_as_rounded(out, exact(q, pairs, pads, 0.125), 3e-5)


@each_dtype
def test_chosen_values_are_the_same_whatever_their_pages(dtype: torch.dtype) -> None:
    for shape, q, pads in draws(f"sparse {dtype}", 10):
        pairs = torch.randn(shape.grains, 2, shape.context, shape.head_dim).to(dtype)
        one, many = torch.empty_like(q, dtype=dtype), torch.full_like(q, math.nan, dtype=dtype)
        for memory, out in ((pairs, one), (Pages.of(paged(pairs, shape)), many)):
            assert GrainAttention(q.to(dtype), memory, pads, shape.head_dim**-0.5, out, 2, None, 0.3)()
        torch.testing.assert_close(many, one, rtol=torch.finfo(dtype).eps, atol=3e-5)


def test_small_and_large_numbers_are_kept() -> None:
    """float16 has subnormal numbers, which bfloat16 parts must hold; large scores leave one token."""
    pairs = torch.randn(2, 2, 70, 64)
    for factor, values in [(1.0, 2.0**-22), (100.0, 1.0)]:
        found = (pairs * torch.tensor([factor, values])[:, None, None]).half()
        q = (torch.randn(2, 1, 16, 64) * factor).half()
        out, pads = torch.full_like(q, math.nan), torch.zeros(2, dtype=torch.int64)
        assert GrainAttention(q, found, pads, 0.125, out, 1)()
        assert_as_rounded(out, exact(q, found, pads, 0.125), 3e-8 if values < 1 else 2e-2)


def test_one_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(build.CHOICE, "abacus")
    forget()
    q = torch.randn(1, 1, 32)
    assert not GrainAttention(q, torch.randn(1, 2, 4, 32), None, 1.0, torch.empty_like(q), 1)()
    assert "abacus; there are native, avx512, avx2, baseline" in caplog.text
