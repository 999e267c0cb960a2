"""Decode attention on the host reads keys and values at the speed of memory, in each dtype and for grouped queries.

GB/s of keys and values read, by our kernel and by torch's scaled_dot_product_attention, with the group folded into
the sequence axis or with ``enable_gqa=True``; the first row of each part is a plain sum over the same memory.

    python benchmarks/host_attention_is_bandwidth_bound.py --threads 14 --with-copies
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import common
import torch
import torch.nn.functional as F
from flexplan_runtime.kernels.host import GrainAttention
from rich.console import Console
from rich.table import Table
from torch import Tensor

HEAD_DIM, CONTEXT = 128, 528
SCALE = HEAD_DIM**-0.5
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PIECE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Shape:
    """A micro-batch of sequences, their KV heads, and the query heads that share one."""

    rows: int
    kv_heads: int
    group: int

    @property
    def grains(self) -> int:
        return self.rows * self.kv_heads


SHAPES = (Shape(24, 56, 1), Shape(64, 8, 5), Shape(64, 8, 8))


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    console = Console(width=120)
    for copying in [False, True] if args.with_copies and torch.cuda.is_available() else [False]:
        table = Table("dtype", "grains", "group", "ours", "folded", "enable_gqa", "ours of read", "copies")
        read = "-"
        with copies(copying) as copied:
            read_bytes_per_s = speed(*plain_read(args), args.seconds)
            read = f"{read_bytes_per_s / 1e9:.1f}"
            for dtype in DTYPES:
                for shape in SHAPES:
                    before = time.perf_counter(), copied[0]
                    ours, folded, gqa = (speed(*case, args.seconds) for case in cases(shape, dtype, args))
                    link = (copied[0] - before[1]) / (time.perf_counter() - before[0])
                    gigabytes = [f"{x / 1e9:.1f}" for x in (ours, folded, gqa)]
                    share = f"{100 * ours / read_bytes_per_s:.0f} %"
                    told = f"{link / 1e9:.1f}" if copying else "-"
                    table.add_row(str(dtype)[6:], str(shape.grains), str(shape.group), *gigabytes, share, told)
        beside = "beside host-to-device copies" if copying else "alone"
        console.print(f"GB/s, {args.threads} threads, {beside}; a plain sum reads {read}")
        console.print(table)


def arguments() -> argparse.Namespace:
    parser = common.parser(__doc__)
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 1) - 2))
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--memory-gib", type=float, default=2.0, help="cycled over; far more than the caches")
    parser.add_argument("--with-copies", action="store_true", help="also beside a stream of pinned copies to the GPU")
    return parser.parse_args()


Case = tuple[Callable[[int], object], int, int]
"""What runs on layer number l, the number of layers, and the bytes of one."""


def plain_read(args: argparse.Namespace) -> Case:
    layers = [torch.ones(64 << 20) for _ in range(max(1, int(args.memory_gib * 4)))]
    return lambda layer: layers[layer].sum(), len(layers), layers[0].nbytes


def cases(shape: Shape, dtype: torch.dtype, args: argparse.Namespace) -> list[Case]:
    """Ours, SDPA with the group folded, SDPA with grouped heads."""
    one = torch.randn(shape.grains, 2, CONTEXT, HEAD_DIM).to(dtype)
    layers = [one.clone() for _ in range(max(2, int(args.memory_gib * 2**30 / one.nbytes)))]
    q = torch.randn(shape.grains, shape.group, HEAD_DIM).to(dtype)
    out = torch.empty_like(q)

    def ours(layer: int) -> None:
        if not GrainAttention(q, layers[layer], None, SCALE, out, args.threads)():
            raise SystemExit("the kernel did not compile here")

    def folded(layer: int) -> Tensor:
        kv = layers[layer]
        return F.scaled_dot_product_attention(q[:, None], kv[:, None, 0], kv[:, None, 1], scale=SCALE)

    def grouped(layer: int) -> Tensor:
        kv = layers[layer].view(shape.rows, shape.kv_heads, 2, CONTEXT, HEAD_DIM)
        heads = q.view(shape.rows, shape.kv_heads * shape.group, 1, HEAD_DIM)
        return F.scaled_dot_product_attention(heads, kv[:, :, 0], kv[:, :, 1], scale=SCALE, enable_gqa=shape.group > 1)

    return [(run, len(layers), one.nbytes) for run in (ours, folded, grouped)]


def speed(run: Callable[[int], object], num_layers: int, nbytes: int, seconds: float) -> float:
    """Bytes per second, the median over rounds of all layers."""
    rounds: list[float] = []
    run(0)
    end = time.perf_counter() + seconds
    while len(rounds) < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        for layer in range(num_layers):
            run(layer)
        rounds.append(time.perf_counter() - start)
    return num_layers * nbytes / statistics.median(rounds)


@contextlib.contextmanager
def copies(wanted: bool) -> Iterator[list[int]]:
    """Copies pinned memory to the GPU all the while, on a thread of its own; yields the count of bytes, in a list."""
    copied, stop = [0], threading.Event()
    if not wanted:
        yield copied
        return

    def copy() -> None:
        stream = torch.cuda.Stream()
        source = torch.empty(16, PIECE_BYTES, dtype=torch.uint8, pin_memory=True)
        target = torch.empty_like(source, device="cuda")
        with torch.cuda.stream(stream):
            while not stop.is_set():
                done = torch.cuda.Event(blocking=True)
                for piece in range(len(source)):
                    target[piece].copy_(source[piece], non_blocking=True)
                done.record(stream)
                done.synchronize()
                copied[0] += source.nbytes

    thread = threading.Thread(target=copy)
    thread.start()
    try:
        yield copied
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    main()
