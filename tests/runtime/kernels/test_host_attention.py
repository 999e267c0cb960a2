"""Attention on the host by our own kernel: equal to torch's, wherever keys and values lie."""

from __future__ import annotations

import ctypes
import itertools
import logging
import math
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from flexplan_runtime.kernels.attention_rule import AttentionRule
from flexplan_runtime.kernels.host import GrainAttention, build, kernel
from torch import Tensor

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, build.COMPILERS)), reason="no C++ compiler")
GRAINS = 3


def forget() -> None:
    build._library.cache_clear()
    kernel._kernel.cache_clear()


@pytest.fixture
def first_use() -> Iterator[None]:
    """As in a process that has not asked for the kernel yet."""
    forget()
    yield
    forget()


def pairs(grains: int, tokens: int, head_dim: int, dtype: torch.dtype, by_token: bool = False) -> Tensor:
    """(grains, 2, tokens, head_dim) with room for three more tokens, laid out by grain or by token."""
    if by_token:
        return torch.randn(tokens + 3, grains, 2, head_dim).to(dtype).permute(1, 2, 0, 3)[:, :, :tokens]
    return torch.randn(grains, 2, tokens + 3, head_dim).to(dtype)[:, :, :tokens]


def ours(q: Tensor, kv: Tensor, pads: Tensor | None, threads: int) -> Tensor:
    out = torch.full_like(q, math.nan)
    assert GrainAttention(q, kv, pads, q.shape[-1] ** -0.5, out, threads)()
    return out


def torchs(q: Tensor, kv: Tensor, pads: Tensor | None) -> Tensor:
    mask = None if pads is None else (torch.arange(kv.shape[2]) >= pads[:, None])[:, None, None, :]
    return F.scaled_dot_product_attention(q[:, None], kv[:, None, 0], kv[:, None, 1], attn_mask=mask)[:, 0]


def error(found: Tensor, q: Tensor, kv: Tensor, pads: Tensor | None) -> float:
    return float((found.double() - torchs(q.double(), kv.double(), pads)).abs().max())


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("group", [1, 4, 5, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_is_as_near_to_float64_as_torch(dtype: torch.dtype, group: int, threads: int) -> None:
    torch.manual_seed(group)
    for head_dim, tokens, padded, by_token in itertools.product([32, 64, 80, 128], [1, 17, 528], [0, 1], [0, 1]):
        kv = pairs(GRAINS, tokens, head_dim, dtype, bool(by_token))
        q = torch.randn(GRAINS, group, head_dim).to(dtype)
        pads = torch.randint(tokens, (GRAINS,)) if padded else None
        found, theirs = ours(q, kv, pads, threads), torchs(q, kv, pads)
        if dtype == torch.float32:
            torch.testing.assert_close(found, theirs, rtol=1e-5, atol=5e-6)
        else:
            assert error(found, q, kv, pads) <= max(2e-3, 1.5 * error(theirs, q, kv, pads))


@needs_compiler
@pytest.mark.parametrize("group", [2, 3, 6, 7, 9, 12, 16, 71])
def test_any_number_of_heads_shares_keys(group: int) -> None:
    kv, q = pairs(GRAINS, 150, 48, torch.float32), torch.randn(GRAINS, group, 48)
    torch.testing.assert_close(ours(q, kv, None, 2), torchs(q, kv, None), rtol=1e-5, atol=5e-6)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_few_grains_with_long_contexts_are_cut_for_the_threads(dtype: torch.dtype) -> None:
    kv, q = pairs(2, 3001, 64, dtype), torch.randn(2, 4, 64).to(dtype)
    pads, atol = torch.tensor([0, 3000], dtype=torch.int32), 5e-6 if dtype.itemsize == 4 else 8e-3
    torch.testing.assert_close(ours(q, kv, pads, 2), torchs(q, kv, pads), rtol=1e-5, atol=atol)


@needs_compiler
def test_what_was_worked_out_once_serves_longer_contexts_and_other_padding() -> None:
    kv, q = torch.randn(GRAINS, 2, 40, 64), torch.randn(GRAINS, 2, 64)
    pads, out = torch.zeros(GRAINS, dtype=torch.int64), torch.empty_like(q)
    attention = GrainAttention(q, kv, pads, 64**-0.5, out, 2)
    for context, pad in [(7, 0), (8, 3), (40, 39), (20, 1)]:
        pads.fill_(pad)
        q.normal_()
        assert attention(context)
        torch.testing.assert_close(out, torchs(q, kv[:, :, :context], pads), rtol=1e-5, atol=5e-6)


@needs_compiler
def test_padding_is_never_read() -> None:
    kv, q, pads = pairs(2, 20, 64, torch.float32), torch.randn(2, 1, 64), torch.tensor([7, 19])
    kv[0, :, :7] = kv[1, :, :19] = math.nan
    assert ours(q, kv, pads, 1).isfinite().all()


@needs_compiler
def test_large_scores_stay_finite() -> None:
    kv, q = pairs(GRAINS, 100, 64, torch.float32) * 100, torch.randn(GRAINS, 1, 64) * 100
    torch.testing.assert_close(ours(q, kv, None, 1), torchs(q, kv, None), rtol=1e-5, atol=1e-3)


@needs_compiler
def test_strided_queries_and_results_are_fine() -> None:
    kv, wide = pairs(GRAINS, 40, 64, torch.float32), torch.randn(GRAINS, 4, 128)
    q, out = wide[..., :64], torch.zeros(GRAINS, 8, 64)[:, ::2]
    assert GrainAttention(q, kv, None, 64**-0.5, out, 1)()
    torch.testing.assert_close(out, torchs(q, kv, None), rtol=1e-5, atol=5e-6)


@needs_compiler
def test_calls_from_two_threads_do_not_disturb_each_other() -> None:
    wrong: list[int] = []

    def call(seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        for tokens in range(1, 60):
            kv, q = torch.randn(5, 2, tokens, 32, generator=draw), torch.randn(5, 2, 32, generator=draw)
            if not torch.allclose(ours(q, kv, None, 2 + seed), torchs(q, kv, None), rtol=1e-5, atol=5e-6):
                wrong.append(tokens)

    callers = [threading.Thread(target=call, args=(seed,)) for seed in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_what_the_kernel_is_not_written_for_is_left_to_the_caller() -> None:
    kv, q = pairs(1, 4, 24, torch.float32), torch.randn(1, 1, 24)
    assert not GrainAttention(q, kv, None, 1.0, q, 1)()
    kv, q = pairs(1, 4, 32, torch.float64), torch.randn(1, 1, 32, dtype=torch.float64)
    assert not GrainAttention(q, kv, None, 1.0, q, 1)()


@pytest.mark.usefixtures("first_use")
@pytest.mark.parametrize("broken", [False, True], ids=["no compiler", "a compiler that fails"])
def test_without_a_kernel_there_is_one_warning(
    broken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if broken:
        fake = tmp_path / "c++"
        fake.write_text("#!/bin/sh\nexit 1\n")
        fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kv, q = pairs(1, 4, 32, torch.float32), torch.randn(1, 1, 32)
    with caplog.at_level(logging.WARNING):
        assert not GrainAttention(q, kv, None, 1.0, q, 1)()
        assert not GrainAttention(q, kv, None, 1.0, q, 1)()
    assert len(caplog.records) == 1
    assert not list((tmp_path / "cache").rglob("*.so"))


@needs_compiler
@pytest.mark.usefixtures("first_use")
def test_a_kernel_compiled_once_needs_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build.library() is not None
    forget()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.library() is not None


# -- the kept library --------------------------------------------------------------------------------------------------
@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_use: None) -> Path:
    """A library in a cache of its own, as in a process that has not asked for it yet; a compiler that takes no time."""
    assert build.library() is not None
    forget()
    data = build.library_path().read_bytes()[: -build._DIGEST_BYTES]
    monkeypatch.setattr(build, "_compile", lambda path: path.write_bytes(data))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build.library_path().parent.mkdir(mode=0o700, parents=True)
    build.compile_to(build.library_path())
    return build.library_path()


def works() -> bool:
    kv, q = pairs(1, 4, 32, torch.float32), torch.randn(1, 1, 32)
    return torch.allclose(ours(q, kv, None, 1), torchs(q, kv, None), rtol=1e-5, atol=5e-6)


@needs_compiler
@pytest.mark.parametrize("damage", ["cut short", "emptied", "a bit that flips", "another's", "a pipe", "writable"])
def test_a_damaged_library_is_compiled_anew_and_never_loaded(damage: str, kept: Path) -> None:
    whole = kept.read_bytes()
    data = bytearray(whole)
    data[len(data) // 2] ^= 1
    contents = {"cut short": whole[:4096], "emptied": b"", "another's": b"\x7fELF" + bytes(100), "writable": whole}
    content = contents.get(damage, bytes(data))
    kept.unlink()
    if damage == "a pipe":
        os.mkfifo(kept)
    else:
        kept.write_bytes(content)
        kept.chmod(0o666 if damage == "writable" else 0o644)
    assert not build.is_whole(kept)
    assert works()
    assert build.is_whole(kept)
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


@needs_compiler
@pytest.mark.parametrize("stranger", ["all may write it", "its group may write it", "another user's"])
def test_a_library_that_others_could_have_planted_is_not_loaded(
    stranger: str, kept: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if stranger == "another user's":
        monkeypatch.setattr(build, "_trusted", lambda: (os.getuid() + 1,))
    else:
        kept.parent.chmod(0o777 if stranger == "all may write it" else 0o770)
    loaded: list[str] = []

    load = ctypes.CDLL

    def noted(name: str) -> ctypes.CDLL:
        loaded.append(name)
        return load(name)

    monkeypatch.setattr(build.ctypes, "CDLL", noted)
    with caplog.at_level(logging.WARNING):
        assert works()
    assert len(loaded) == 1
    assert loaded[0] != str(kept)
    assert not Path(loaded[0]).exists()
    assert [record for record in caplog.records if "compiled at each start" in record.message]


@needs_compiler
def test_a_library_that_is_exchanged_after_the_look_at_it_is_not_loaded(
    kept: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    look = build.is_whole

    def exchanging(path: Path) -> bool:
        found = look(path)
        path.unlink()
        path.write_bytes(b"\x7fELF" + bytes(100))
        return found

    monkeypatch.setattr(build, "is_whole", exchanging)
    with caplog.at_level(logging.WARNING):
        assert works()
    assert [record for record in caplog.records if "is not what was compiled into it" in record.message]


@needs_compiler
def test_a_library_that_takes_the_place_of_a_writable_one_is_not_writable(kept: Path) -> None:
    before = os.umask(0)
    try:
        kept.chmod(0o666)
        build.compile_to(kept)
    finally:
        os.umask(before)
    assert kept.stat().st_mode & 0o777 == 0o644


@needs_compiler
def test_what_a_killed_compiler_left_is_gone_after_the_next(kept: Path) -> None:
    left = kept.parent / ".abc.flexplan-part"
    left.mkdir()
    (left / "ccXYZ.s").touch()
    kept.unlink()
    assert works()
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("grains", "tokens"), [(24, 100), (2, 700)], ids=["many grains", "long contexts, cut"])
def test_a_sink_takes_weight_and_has_no_value(dtype: torch.dtype, grains: int, tokens: int) -> None:
    """From one that nobody minds to one that takes all."""
    torch.manual_seed(0)
    q, kv = torch.randn(grains, 5, 64).to(dtype), pairs(grains, tokens, 64, dtype)
    pads, sinks_KP = torch.randint(0, 40, (grains,)), torch.linspace(-200, 200, 10).view(2, 5)
    rule = AttentionRule(64**-0.5, sinks_KP=sinks_KP)
    out = torch.full_like(q, math.nan)
    assert GrainAttention(q, kv, pads, rule.scale, out, 3, sinks_GP=rule.sinks_GP(0, grains))()
    exact = AttentionRule(64**-0.5, sinks_KP=sinks_KP.double())
    unread = torch.arange(tokens) < pads[:, None]
    probs = exact.weights(q.double() @ kv[:, 0].double().mT, unread[:, None])
    torch.testing.assert_close(
        out.double(), probs @ kv[:, 1].double(), rtol=0, atol=0.02 if dtype != torch.float32 else 1e-5
    )
