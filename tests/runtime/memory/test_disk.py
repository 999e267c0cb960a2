"""The disk tier: what is written is what is read, and what goes wrong is a StorageError, never a hang or a lie."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flexplan_runtime.memory import BLOCK, ScratchFile, aligned_bytes
from injectors import failing_io, free_bytes, mounted, patch_io, refuse_direct_io
from torch import Tensor

from flexplan.errors import StorageError
from flexplan.hardware import DISK_REQUEST_BYTES

SIZE = 64 * BLOCK


@pytest.fixture
def file(tmp_path: Path) -> Iterator[ScratchFile]:
    scratch = ScratchFile(tmp_path, SIZE)
    yield scratch
    scratch.close()


def content(nbytes: int, seed: int = 0) -> Tensor:
    data = aligned_bytes(nbytes)
    data.random_(0, 256, generator=torch.Generator().manual_seed(seed))
    return data


def read_back(file: ScratchFile, nbytes: int, offset: int = 0) -> Tensor:
    out = aligned_bytes(nbytes)
    file.read(offset, out)
    return out


# -- bytes ------------------------------------------------------------------------------------------------------------
def test_what_is_written_is_read_back_wherever_it_was(file: ScratchFile) -> None:
    pieces = {n * 16 * BLOCK: content(16 * BLOCK, n) for n in (2, 0, 3, 1)}
    for offset, data in pieces.items():
        file.write(offset, data)
    for offset, data in pieces.items():
        assert torch.equal(read_back(file, len(data), offset), data)
    assert torch.equal(read_back(file, BLOCK, 17 * BLOCK), pieces[16 * BLOCK][BLOCK : 2 * BLOCK])


def test_large_transfers_go_in_several_requests(tmp_path: Path) -> None:
    size = 2 * DISK_REQUEST_BYTES + 3 * BLOCK
    large, data = ScratchFile(tmp_path, size), content(size)
    large.write(0, data)
    assert torch.equal(read_back(large, size), data)
    large.close()


@pytest.mark.parametrize("step", [BLOCK, 5000, 1], ids=["a block", "no whole block", "a byte at first"])
def test_short_reads_and_writes_are_continued(step: int, file: ScratchFile, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def short(real: Callable[..., int], handle: int, views: list[memoryview], offset: int) -> int:
        calls.append(offset)
        return real(handle, [views[0][: step if len(calls) % 3 else SIZE]], offset)

    data = content(SIZE)
    for name in ("preadv", "pwritev"):
        patch_io(monkeypatch, name, short)
    file.write(0, data)
    assert torch.equal(read_back(file, SIZE), data)
    assert len(calls) > 3


@pytest.mark.parametrize("name", ["preadv", "pwritev"])
def test_a_failing_call_names_itself(name: str, file: ScratchFile, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write(0, content(BLOCK))
    patch_io(monkeypatch, name, failing_io(errno.EIO))
    with pytest.raises(StorageError, match=rf"{name} of {BLOCK} bytes at 0 .*Input/output error") as failure:
        file.read(0, aligned_bytes(BLOCK)) if name == "preadv" else file.write(0, content(BLOCK))
    assert (failure.value.code, failure.value.exit_code) == ("FP602", 6)


@pytest.mark.parametrize("name", ["preadv", "pwritev"])
def test_nothing_moved_is_an_error_not_a_loop(name: str, file: ScratchFile, monkeypatch: pytest.MonkeyPatch) -> None:
    patch_io(monkeypatch, name, lambda *_: 0)
    with pytest.raises(StorageError, match=f"moved 0 of {BLOCK}") as failure:
        file.read(0, aligned_bytes(BLOCK)) if name == "preadv" else file.write(0, content(BLOCK))
    assert failure.value.code == "FP603"


def test_an_error_in_one_of_several_requests_is_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def last_fails(real: Callable[..., int], handle: int, views: list[memoryview], offset: int) -> int:
        if offset >= 2 * DISK_REQUEST_BYTES:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(handle, views, offset)

    size = 3 * DISK_REQUEST_BYTES
    large = ScratchFile(tmp_path, size)
    patch_io(monkeypatch, "pwritev", last_fails)
    with pytest.raises(StorageError, match=f"at {2 * DISK_REQUEST_BYTES}"):
        large.write(0, content(size))
    large.close()


# -- direct I/O ------------------------------------------------------------------------------------------------------
def test_a_file_system_that_refuses_the_flag_is_read_through_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_direct_io(monkeypatch)
    buffered, data = ScratchFile(tmp_path, SIZE), content(SIZE)
    assert not buffered.direct
    buffered.write(0, data)
    assert torch.equal(read_back(buffered, SIZE), data)
    buffered.close()


def test_a_file_system_that_refuses_the_transfer_is_read_through_the_page_cache(
    file: ScratchFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(real: Callable[..., int], handle: int, views: list[memoryview], offset: int) -> int:
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(handle, views, offset)

    for name in ("preadv", "pwritev"):
        patch_io(monkeypatch, name, refusing)
    file.direct, data = True, content(SIZE)
    file.write(0, data)
    assert not file.direct
    assert torch.equal(read_back(file, SIZE), data)


def test_all_requests_of_a_transfer_may_be_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(3)

    def refusing(real: Callable[..., int], handle: int, views: list[memoryview], offset: int) -> int:
        if refused.acquire(blocking=False):
            together.wait(5)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(handle, views, offset)

    size, refused = 3 * DISK_REQUEST_BYTES, threading.Semaphore(3)
    large, data = ScratchFile(tmp_path, size), content(size)
    large.direct = True
    patch_io(monkeypatch, "pwritev", refusing)
    large.write(0, data)
    assert torch.equal(read_back(large, size), data)
    large.close()


# -- checksums ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("where", [0, 5 * BLOCK + 17, SIZE - 1])
def test_a_flipped_bit_is_found(where: int, file: ScratchFile) -> None:
    file.write(0, content(SIZE))
    damage(file, where)
    with pytest.raises(StorageError, match=f"1 blocks .*first at {where // BLOCK * BLOCK}") as failure:
        read_back(file, SIZE)
    assert (failure.value.code, failure.value.exit_code) == ("FP604", 6)


def test_a_write_that_never_reached_the_disk_is_found(file: ScratchFile, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write(0, content(SIZE))
    with monkeypatch.context() as patched:
        patch_io(patched, "pwritev", lambda real, handle, views, offset: len(views[0]))
        file.write(BLOCK, content(BLOCK, seed=1))
    with pytest.raises(StorageError, match=f"1 blocks .*first at {BLOCK}"):
        read_back(file, SIZE)


def test_two_words_that_changed_places_are_found(file: ScratchFile) -> None:
    data = content(BLOCK)
    file.write(0, data)
    swapped = bytearray(data.numpy().tobytes())
    swapped[0:8], swapped[8:16] = swapped[8:16], swapped[0:8]
    overwrite(file, 0, bytes(swapped))
    with pytest.raises(StorageError, match="1 blocks"):
        read_back(file, BLOCK)


def damage(file: ScratchFile, where: int) -> None:
    """Flip one bit on the disk, past the file's own writes."""
    start = where // BLOCK * BLOCK
    block = bytearray(read_back(file, BLOCK, start).numpy().tobytes())
    block[where - start] ^= 4
    overwrite(file, start, bytes(block))


def overwrite(file: ScratchFile, offset: int, data: bytes) -> None:
    """Write whole blocks without the file knowing."""
    aligned = aligned_bytes(len(data))
    aligned.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    assert os.pwritev(file._fd, [memoryview(aligned.numpy())], offset) == len(data)


# -- the file itself ---------------------------------------------------------------------------------------------------
def test_the_file_has_no_name_and_nobody_else_may_open_it(file: ScratchFile, tmp_path: Path) -> None:
    assert list(tmp_path.iterdir()) == []
    found = os.fstat(file._fd)
    assert (found.st_nlink, found.st_mode & 0o777, found.st_size) == (0, 0o600, SIZE)


def test_the_space_is_there_before_the_first_write(file: ScratchFile) -> None:
    assert os.fstat(file._fd).st_blocks * 512 >= SIZE


def test_a_file_system_without_nameless_files_gets_one_that_is_unlinked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refusing(path: Any, flags: int, *rest: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", refusing)
    named, data = ScratchFile(tmp_path, SIZE), content(SIZE)
    assert list(tmp_path.iterdir()) == []
    named.write(0, data)
    assert torch.equal(read_back(named, SIZE), data)
    named.close()


def test_a_directory_is_made_and_one_that_cannot_be_is_named(tmp_path: Path) -> None:
    ScratchFile(tmp_path / "new" / "deep", BLOCK).close()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=str(tmp_path / "file")) as failure:
        ScratchFile(tmp_path / "file", BLOCK)
    assert (failure.value.code, failure.value.exit_code) == ("FP605", 6)


def open_files() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_a_full_disk_is_refused_with_what_is_needed_and_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", failing_io(errno.ENOSPC))
    before = open_files()
    with pytest.raises(
        StorageError, match=r"cannot hold 256\.00 KiB .*: No space left on device; free [\d.]+ [KMGT]iB"
    ) as e:
        ScratchFile(tmp_path, SIZE)
    assert (e.value.code, e.value.exit_code) == ("FP601", 6)
    assert open_files() <= before


def test_a_disk_that_really_is_full_keeps_nothing(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", 1 << 20) as small:
        kept = ScratchFile(small, SIZE)
        with pytest.raises(StorageError, match="cannot hold"):
            ScratchFile(small, 4 << 20)
        assert free_bytes(small) == (1 << 20) - SIZE
        kept.close()
        assert free_bytes(small) == 1 << 20


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    scratch = ScratchFile(tmp_path, BLOCK)
    scratch.close()
    scratch.close()
