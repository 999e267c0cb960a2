"""The disk tier: one anonymous, preallocated file, read and written past the page cache where that is allowed.

Never mapped into memory: a full disk under a mapping is a dead process, here it is a StorageError.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from torch import Tensor

from flexplan.errors import StorageError
from flexplan.hardware import DISK_REQUEST_BYTES
from flexplan.units import format_size

BLOCK = 4096
THREADS = 4
_FACTORS = np.random.default_rng(0).integers(2**64, size=BLOCK // 8, dtype=np.uint64) | np.uint64(1)


class ScratchFile:
    """Bytes on disk that vanish with the process: the file has no name.

    A checksum of every block is kept in memory and compared on each read.
    """

    def __init__(self, directory: Path, nbytes: int) -> None:
        self.nbytes = nbytes
        self.direct = True
        self._sums = np.zeros(-(-nbytes // BLOCK), dtype=np.uint64)
        self._written = np.zeros(len(self._sums), dtype=bool)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="flexplan-disk")
        self._lock = threading.Lock()
        self._under_way = 0
        self._closed = False
        self._left: list[Future[None]] = []  # requests that outlived their transfer
        self._fd = _open_anonymous(directory)
        try:
            self._reserve(directory)
        except BaseException:
            self.close()
            raise

    def read(self, offset: int, out: Tensor) -> None:
        """Fill a host tensor of bytes; whole blocks, aligned."""
        self._spread(self._read_request, offset, out)

    def write(self, offset: int, data: Tensor) -> None:
        """Store a host tensor of bytes; whole blocks, aligned."""
        self._spread(self._write_request, offset, data)

    def close(self) -> None:
        """Give the space back: now, or when the last request returns; only the end of the process waits for that."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            closes = not (self._closed or self._under_way)
            self._closed = True
        if closes:
            os.close(self._fd)

    @property
    def busy(self) -> bool:
        """Is a request of a transfer that failed still under way?  It reads into that transfer's memory, or from it."""
        return any(not request.done() for request in self._left)

    @contextmanager
    def _handle(self) -> Iterator[int]:
        """The file's descriptor, which nobody closes, nor the system gives to another file, meanwhile."""
        with self._lock:
            if self._closed:
                raise StorageError(
                    "FP606", "the disk file was closed while it was in use", fix="wait for what uses the model"
                )
            self._under_way += 1
        try:
            yield self._fd
        finally:
            with self._lock:
                self._under_way -= 1
                closes = self._closed and not self._under_way
            if closes:
                os.close(self._fd)

    def _reserve(self, directory: Path) -> None:
        try:
            os.posix_fallocate(self._fd, 0, max(1, self.nbytes))
        except OSError as error:
            free = os.statvfs(directory)
            raise StorageError(
                "FP601",
                f"{directory} cannot hold {format_size(self.nbytes)}: {error.strerror}; "
                f"free {format_size(free.f_bavail * free.f_frsize)}",
                fix="free some space, or choose another --offload-dir",
            ) from None
        self.direct = _set_direct(self._fd)

    def _spread(self, request: Callable[[int, Tensor], None], offset: int, data: Tensor) -> None:
        """All bytes, in several requests at once; the first error of any of them is raised."""
        if len(data) <= DISK_REQUEST_BYTES:
            request(offset, data)
            return
        starts = range(0, len(data), DISK_REQUEST_BYTES)
        requests = [self._pool.submit(request, offset + s, data[s : s + DISK_REQUEST_BYTES]) for s in starts]
        done, left = wait(requests, return_when=FIRST_EXCEPTION)
        self._left += [late for late in left if not late.cancel()]
        for ended in done:
            ended.result()

    def _read_request(self, offset: int, out: Tensor) -> None:
        self._all(os.preadv, memoryview(out.numpy()), offset)
        self._verify(offset, out)  # while other requests are under way

    def _write_request(self, offset: int, data: Tensor) -> None:
        first, sums = offset // BLOCK, _checksums(data)
        self._sums[first : first + len(sums)] = sums
        self._written[first : first + len(sums)] = True
        self._all(os.pwritev, memoryview(data.numpy()), offset)

    def _all(self, call: Callable[..., int], view: memoryview, offset: int) -> None:
        done = 0
        while done < len(view):
            direct = self.direct  # another request of the same transfer may find out first
            try:
                with self._handle() as handle:
                    moved = call(handle, [view[done:]], offset + done)
            except OSError as error:
                if error.errno == errno.EINVAL and direct:
                    with self._handle() as handle:  # a file system that takes the flag, but not the transfer
                        self.direct = _clear_direct(handle)
                    continue
                raise StorageError(
                    "FP602",
                    f"disk {call.__name__} of {len(view)} bytes at {offset} failed: {error}",
                    fix="check the disk",
                ) from error
            if moved <= 0:
                raise StorageError(
                    "FP603", f"disk {call.__name__} moved {done} of {len(view)} bytes at {offset}", fix="check the disk"
                )
            done += moved

    def _verify(self, offset: int, data: Tensor) -> None:
        first, sums = offset // BLOCK, _checksums(data)
        span = slice(first, first + len(sums))
        bad = np.flatnonzero((sums != self._sums[span]) & self._written[span])
        if len(bad):
            where = offset + int(bad[0]) * BLOCK
            raise StorageError(
                "FP604",
                f"{len(bad)} blocks read back differ from what was written, first at {where}",
                fix="check the disk",
            )


def _checksums(data: Tensor) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """One sum a block of its 64-bit words, each times an odd number of its own: swapped words show, too."""
    words = data.numpy().view(np.uint64).reshape(-1, BLOCK // 8)
    sums: np.ndarray[tuple[int], np.dtype[np.uint64]] = np.einsum("bw,w->b", words, _FACTORS)
    return sums


def _open_anonymous(directory: Path) -> int:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return os.open(directory, os.O_RDWR | os.O_TMPFILE, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
            raise _unusable(directory, error) from None
    path = directory / f".flexplan-{os.getpid()}-{os.urandom(8).hex()}"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        path.unlink()
    except OSError as error:
        raise _unusable(directory, error) from None
    return handle


def _unusable(directory: Path, error: OSError) -> StorageError:
    return StorageError("FP605", f"{directory} cannot be used: {error.strerror}", fix="choose another --offload-dir")


def _set_direct(handle: int) -> bool:
    import fcntl

    try:
        fcntl.fcntl(handle, fcntl.F_SETFL, fcntl.fcntl(handle, fcntl.F_GETFL) | os.O_DIRECT)
    except OSError:
        return False
    return True


def _clear_direct(handle: int) -> bool:
    import fcntl

    fcntl.fcntl(handle, fcntl.F_SETFL, fcntl.fcntl(handle, fcntl.F_GETFL) & ~os.O_DIRECT)
    return False
