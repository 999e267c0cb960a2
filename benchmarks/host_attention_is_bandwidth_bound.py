"""Decode attention on the host reads keys and values at the speed of memory, in each dtype and for grouped queries.

GB/s of keys and values read, and the percent of what a plain sum by the same threads reads, for each number of query
heads that share a KV head; with ``--torch`` also torch's scaled_dot_product_attention, with the group folded into the
sequence axis and with ``enable_gqa=True``.  ``FLEXPLAN_HOST_KERNEL=avx512`` (avx2, baseline) tries what other
processors run.

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
from itertools import product

import common
import torch
import torch.nn.functional as F
from flexplan_runtime.kernels.host import GrainAttention, uses_tiles
from flexplan_runtime.kernels.host.build import CHOICE
from flexplan_runtime.kernels.quantisation import pack_vectors
from rich.console import Console
from rich.table import Table
from torch import Tensor

from flexplan.model import Packing

CACHES = {
    "float32": (torch.float32, None),
    "bfloat16": (torch.bfloat16, None),
    "float16": (torch.float16, None),
    "8bit": (torch.bfloat16, 8),
    "4bit": (torch.bfloat16, 4),
}
"""The dtype of queries, and the bits of a packed cache."""
PIECE_BYTES = 64 << 20
LARGEST_CALL_BYTES = 256 << 20
DISTINCT = 4096  # vectors; the memory repeats them


@dataclass(frozen=True, slots=True)
class Shape:
    """Grains of a micro-batch, their context and head dim, and the new tokens of each."""

    grains: int
    context: int
    head_dim: int
    new: int


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    console = Console(width=120)
    by = f"{os.environ.get(CHOICE) or 'native'}, {'AMX tiles' if uses_tiles() else 'vectors'}"
    for copying in [False, True] if args.with_copies and torch.cuda.is_available() else [False]:
        columns = ("cache", "head", "context", "grains", "sum reads", *(f"group {g}" for g in args.groups), "copies")
        table = Table(*columns)
        with copies(copying) as copied:
            for name, head_dim in product(args.caches, args.head_dims):
                memory, packing = cache(name, head_dim, args)
                for context in args.contexts:
                    before = time.perf_counter(), copied[0]
                    cells = row(name, memory, packing, head_dim, context, args)
                    link = (copied[0] - before[1]) / (time.perf_counter() - before[0])
                    table.add_row(name, str(head_dim), str(context), *cells, f"{link / 1e9:.1f}" if copying else "-")
        beside = "beside host-to-device copies" if copying else "alone"
        console.print(f"GB/s, {args.threads} threads, {beside}; {args.new_tokens} new tokens a row; {by}")
        console.print(table)


def arguments() -> argparse.Namespace:
    parser = common.parser(__doc__)
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 1) - 2))
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement")
    parser.add_argument("--memory-gib", type=float, default=2.0, help="cycled over; far more than the caches")
    parser.add_argument("--caches", nargs="+", choices=CACHES, default=["float32", "bfloat16", "float16", "4bit"])
    parser.add_argument("--groups", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--head-dims", nargs="+", type=int, default=[128])
    parser.add_argument("--contexts", nargs="+", type=int, default=[64, 528, 2048])
    parser.add_argument("--grains", type=int, default=512, help="of a call; fewer where one would read over 256 MiB")
    parser.add_argument("--new-tokens", type=int, default=1)
    parser.add_argument("--torch", action="store_true", help="also torch's attention: folded, and with enable_gqa")
    parser.add_argument("--with-copies", action="store_true", help="also beside a stream of pinned copies to the GPU")
    return parser.parse_args()


Case = tuple[Callable[[int], object], int, int]
"""What runs on layer number l, the number of layers, and the bytes of one."""


def cache(name: str, head_dim: int, args: argparse.Namespace) -> tuple[Tensor, Packing | None]:
    """Vectors (any number, numbers or bytes of one) that fill the memory, and their packing."""
    dtype, bits = CACHES[name]
    some, packing = torch.randn(DISTINCT, head_dim).to(dtype), None
    if bits:
        packing = Packing(bits, 64, False, dtype.itemsize)
        packed = torch.empty(DISTINCT, packing.vector_bytes(head_dim), dtype=torch.uint8)
        pack_vectors(some, packing, packed)
        some = packed
    return some.repeat(int(args.memory_gib * 2**30 / some.nbytes), 1), packing


def row(
    name: str, memory: Tensor, packing: Packing | None, head_dim: int, context: int, args: argparse.Namespace
) -> list[str]:
    """The grains of a call, what a plain sum reads, and GB/s for each group."""
    grain_bytes = 2 * context * memory.shape[1] * memory.element_size()
    shape = Shape(min(args.grains, max(1, LARGEST_CALL_BYTES // grain_bytes)), context, head_dim, args.new_tokens)
    read, cells = speed(*plain_read(memory), args.seconds), []
    for group in args.groups:
        found = [speed(*case, args.seconds) for case in cases(memory, CACHES[name][0], packing, shape, group, args)]
        others = "".join(f" {x / 1e9:.1f}" for x in found[1:])
        cells.append(f"{found[0] / 1e9:.1f} ({100 * found[0] / read:.0f} %){others}")
    return [str(shape.grains), f"{read / 1e9:.1f}", *cells]


def plain_read(memory: Tensor) -> Case:
    """A sum of the same bytes, taken as float32."""
    flat = memory.view(-1).view(torch.uint8)
    pieces = flat[: len(flat) // PIECE_BYTES * PIECE_BYTES].view(torch.float32).view(-1, PIECE_BYTES // 4)
    return lambda piece: pieces[piece].sum(), len(pieces), PIECE_BYTES


def cases(
    memory: Tensor, dtype: torch.dtype, packing: Packing | None, shape: Shape, group: int, args: argparse.Namespace
) -> list[Case]:
    """Ours; where torch is asked for, SDPA with the group folded, and SDPA with grouped heads."""
    vectors = shape.grains * 2 * shape.context
    num_layers = len(memory) // vectors
    layers = memory[: num_layers * vectors].view(num_layers, shape.grains, 2, shape.context, -1)
    q = torch.randn(shape.grains, shape.new, group, shape.head_dim).to(dtype)
    out, scale = torch.empty_like(q), shape.head_dim**-0.5
    ready = [GrainAttention(q, layer, None, scale, out, args.threads, packing) for layer in layers]

    def ours(layer: int) -> None:
        if not ready[layer]():
            raise SystemExit("the kernel did not compile here")

    def folded(layer: int) -> Tensor:
        k, v = layers[layer].unbind(1)
        return F.scaled_dot_product_attention(q[:, 0, None], k[:, None], v[:, None], scale=scale)

    def grouped(layer: int) -> Tensor:
        k, v = layers[layer].unbind(1)
        return F.scaled_dot_product_attention(
            q[:, 0, :, None], k[:, None], v[:, None], scale=scale, enable_gqa=group > 1
        )

    runs = [ours, folded, grouped] if args.torch and packing is None and shape.new == 1 else [ours]
    return [(run, num_layers, layers[0].nbytes) for run in runs]


def speed(run: Callable[[int], object], num_layers: int, nbytes: int, seconds: float) -> float:
    """Bytes per second, the median over rounds of all layers; at least one of them."""
    rounds: list[float] = []
    run(0)
    end = time.perf_counter() + seconds
    while not rounds or time.perf_counter() < end:
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
