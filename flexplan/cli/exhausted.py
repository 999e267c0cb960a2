"""A machine at its limits of memory, threads or open files, or whose disk fails: no bug, whichever library met it."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator

from flexplan.errors import FlexplanError, MemoryExhausted, StorageError
from flexplan.units import MiB, format_size

_LEAST_BYTES = 160 * MiB  # of addresses: below, libraries end the process themselves while they are imported
_MOST_CAUSES = 16
# what C and C++ libraries say, whose exceptions have no type of their own
_MEMORY = (
    "cannot allocate memory",
    "can't allocate memory",
    "failed to map segment",
    "unable to allocate",
    "not enough memory",
    "out of memory",
    "bad_alloc",
)
_THREADS = ("can't start new thread", "resource temporarily unavailable", "thread creation failed")
_FILES = ("too many open files",)
_NUMBERS = {
    errno.ENOMEM: _MEMORY[0],
    errno.EAGAIN: _THREADS[1],
    errno.EMFILE: _FILES[0],
    errno.ENFILE: _FILES[0],
}


# what the system says of a disk that is full, failing, gone or for reading only, and of files that may not grow
_DISK = frozenset(
    (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENXIO, errno.ENODEV, errno.ESTALE)
)


def no_bug(error: BaseException) -> FlexplanError | None:
    """What the machine lacks that an exception, or one that it came of, ran into; None where it is about nothing."""
    return exhausted(error) or _broken_disk(error)


def _broken_disk(error: BaseException) -> StorageError | None:
    for one in _causes(error):
        if isinstance(one, OSError) and one.errno in _DISK:
            what = f"{one.filename} cannot be used" if one.filename else "a file cannot be used"
            fix = "make room, or look after the disk; a job goes on with --resume"
            return StorageError("FP619", f"{what}: {one.strerror}", fix=fix)
    return None


def exhausted(error: BaseException) -> MemoryExhausted | None:
    """The limit that an exception, or one that it came of, ran into; None where it is about none."""
    for one in _causes(error):
        words = _words(one)
        what = next(iter(str(one).strip().splitlines()), type(one).__name__)
        if any(word in words for word in _FILES):
            return MemoryExhausted("FP713", f"no more files can be opened: {what}", fix="raise ulimit -n")
        if any(word in words for word in _THREADS):
            fix = "raise ulimit -u, or the container's pids.max"
            return MemoryExhausted("FP712", f"no more threads can be started: {what}", fix=fix)
        if isinstance(one, MemoryError) or any(word in words for word in _MEMORY):
            fix = "lower the budgets, raise ulimit -v or the container's limit, or close other programs"
            return MemoryExhausted("FP711", f"memory is used up: {what}", fix=fix)
    return None


def refuse_too_little() -> None:
    """Raise MemoryExhausted where not even the libraries of planning have room."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if 0 <= limit < _LEAST_BYTES:
        have, need = format_size(limit), format_size(_LEAST_BYTES)
        raise MemoryExhausted("FP714", f"ulimit -v is {have}, planning needs {need} or more", fix="raise ulimit -v")


def _causes(error: BaseException) -> Iterator[BaseException]:
    at: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if at is None:
            return
        yield at
        at = at.__cause__ or at.__context__


def _words(error: BaseException) -> str:
    """What to look for a limit in: a message of a library; of the system its number, whatever its language."""
    if isinstance(error, OSError) and error.errno is not None:
        return _NUMBERS.get(error.errno, "")
    return str(error).lower() if isinstance(error, RuntimeError | ImportError | SystemError) else ""
