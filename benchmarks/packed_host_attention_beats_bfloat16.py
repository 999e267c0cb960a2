"""A packed cache is attended over on the host faster than a bfloat16 one: one core, out of memory and out of cache.

Tokens (a key and a value) a second and GB/s of the cache's bytes, in processor time, the best of several runs.

    python benchmarks/packed_host_attention_beats_bfloat16.py --sparsity 0.1
"""

from __future__ import annotations

import time
from collections.abc import Callable

import common
import torch
from flexplan_runtime.kernels.host import GrainAttention
from flexplan_runtime.kernels.quantisation import pack_vectors
from rich.console import Console
from rich.table import Table
from torch import Tensor

from flexplan.model import Packing

CONTEXT, DISTINCT = 528, 16
PLACES = {"cache": (8, 200), "memory": (4096, 4)}
"""Grains, and runs."""


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--sparsity", type=float, default=1.0)
    args = parser.parse_args()
    table = Table("query heads", "read from", "cache", "GB/s", "million tokens/s", "of bfloat16")
    plain = torch.randn(DISTINCT, 2, CONTEXT, args.head_dim).bfloat16()
    caches: list[tuple[str, Tensor, Packing | None]] = [("bfloat16", plain, None)]
    for bits in (8, 4):
        packing = Packing(bits, args.group_size, False, plain.element_size())
        packed = torch.empty(*plain.shape[:-1], packing.vector_bytes(args.head_dim), dtype=torch.uint8)
        pack_vectors(plain, packing, packed)
        caches.append((f"{bits} bits", packed, packing))
    for heads in (1, 5, 8):
        for place, (grains, runs) in PLACES.items():
            base = 0.0
            for name, some, packing in caches:
                cache = some.repeat(-(-grains // DISTINCT), 1, 1, 1)[:grains]
                took_s = common.fastest(
                    attend(cache, packing, heads, args.head_dim, args.sparsity), runs, time.process_time
                )
                tokens_per_s = grains * CONTEXT / took_s
                base = base or tokens_per_s
                figures = (
                    f"{cache.nbytes / took_s / 1e9:.1f}",
                    f"{tokens_per_s / 1e6:.1f}",
                    f"{tokens_per_s / base:.2f}",
                )
                table.add_row(str(heads), place, name, *figures)
    Console(width=100).print(table)


def attend(cache: Tensor, packing: Packing | None, heads: int, head_dim: int, sparsity: float) -> Callable[[], None]:
    q = torch.randn(len(cache), heads, head_dim).bfloat16()
    attention = GrainAttention(q, cache, None, head_dim**-0.5, torch.empty_like(q), 1, packing, sparsity)

    def run() -> None:
        if not attention():
            raise SystemExit("the kernel did not compile here")

    return run


if __name__ == "__main__":
    main()
