"""The disk tier beside a plain loop of direct reads and writes of the same bytes in the same run, in GB/s.

python benchmarks/disk_at_its_rate.py --offload-dir offload --gib 4
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import common
import torch
from flexplan_runtime.memory import ScratchFile, aligned_bytes

from flexplan.units import GiB, MiB

REQUEST_BYTES = 8 * MiB


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--offload-dir", type=Path, default=Path("offload"))
    parser.add_argument("--gib", type=float, default=4.0)
    parser.add_argument("--times", type=int, default=3)
    args = parser.parse_args()
    args.offload_dir.mkdir(parents=True, exist_ok=True)
    data = aligned_bytes(int(args.gib * GiB) // REQUEST_BYTES * REQUEST_BYTES)
    data.random_()
    ours, plain = ScratchFile(args.offload_dir, len(data)), PlainFile(args.offload_dir)
    try:
        pairs = {
            "written": (lambda: ours.write(0, data), lambda: plain.write(data)),
            "read": (lambda: ours.read(0, data), lambda: plain.read(data)),
        }
        for name, acts in pairs.items():
            rates = alternated(acts, len(data), args.times)
            share = 100 * statistics.median(rates[0]) / statistics.median(rates[1])
            told = [f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for r in rates]
            print(f"{name:8} flexplan {told[0]}  a plain direct loop {told[1]} GB/s  {share:.0f} %")
    finally:
        ours.close()
        plain.close()


def alternated(acts: tuple[Callable[[], None], ...], nbytes: int, times: int) -> list[list[float]]:
    """GB/s of each, one after the other so that both meet the same neighbours."""
    rates: list[list[float]] = [[] for _ in acts]
    for _ in range(times):
        for act, found in zip(acts, rates, strict=True):
            found.append(nbytes / common.seconds(act) / 1e9)
    return rates


class PlainFile:
    """One request after the other, past the page cache."""

    def __init__(self, directory: Path) -> None:
        handle, self.path = tempfile.mkstemp(dir=directory)
        os.close(handle)
        self._fd = os.open(self.path, os.O_RDWR | os.O_DIRECT)

    def write(self, data: torch.Tensor) -> None:
        """From the beginning of the file on."""
        view = memoryview(data.numpy())
        for start in range(0, len(data), REQUEST_BYTES):
            os.pwrite(self._fd, view[start : start + REQUEST_BYTES], start)

    def read(self, data: torch.Tensor) -> None:
        """The same bytes back."""
        view = memoryview(data.numpy())
        for start in range(0, len(data), REQUEST_BYTES):
            os.preadv(self._fd, [view[start : start + REQUEST_BYTES]], start)

    def close(self) -> None:
        """Close and remove it."""
        os.close(self._fd)
        Path(self.path).unlink()


if __name__ == "__main__":
    main()
