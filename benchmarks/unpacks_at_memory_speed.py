"""Packed weights and caches are read at the speed of the GPU's memory.

GB/s of bytes read and written: a copy on the device, one layer of OPT-30B unpacked from slabs and from rows, new keys
and values packed, and decode attention over a packed cache beside that over 16-bit keys and values (with the grains'
tokens a second: what packing gains).

    python benchmarks/unpacks_at_memory_speed.py --bits 4 --group-size 64
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from flexplan_runtime.attention import decode_attention
from flexplan_runtime.packedattention import decode_attention_packed
from flexplan_runtime.quantisation import pack_slabs, pack_vectors, unpack_rows, unpack_slabs
from flexplan_runtime.timing import rate_of
from rich.console import Console
from rich.table import Table

from flexplan.packing import Packing

DTYPE = torch.float16
LAYER = [*[(7168, 7168)] * 4, (28672, 7168), (7168, 28672)]
GRAINS, CONTEXT, HEAD_DIM = 24 * 56, 528, 128
Case = tuple[str, Callable[[], object], int]
"""A name, what runs, and the bytes it reads and writes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, default=4, choices=(4, 8))
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--symmetric", action="store_true")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    args = parser.parse_args()
    packing = Packing(args.bits, args.group_size, args.symmetric, DTYPE.itemsize)
    table = Table("what", "ms", "GB/s", "of the copy")
    copied = 0.0
    for name, act, nbytes in (*weights(packing), *caches(packing)):
        rate = rate_of(nbytes, act, torch.device("cuda"), args.seconds).value
        copied = copied or rate
        table.add_row(name, f"{nbytes / rate * 1e3:.3f}", f"{rate / 1e9:.0f}", f"{100 * rate / copied:.0f} %")
    Console(width=100).print(f"{torch.cuda.get_device_name()}, {packing}", table)


def weights(packing: Packing) -> list[Case]:
    """A copy, and one layer from slabs and from rows."""
    plain = [torch.randn(shape, device="cuda", dtype=DTYPE) for shape in LAYER]
    out = [torch.empty_like(x) for x in plain]
    slabs = [torch.empty(packing.slabs_bytes(*x.shape), device="cuda", dtype=torch.uint8) for x in plain]
    rows = [torch.empty(len(x), packing.vector_bytes(x.shape[1]), device="cuda", dtype=torch.uint8) for x in plain]
    for x, slab, row in zip(plain, slabs, rows, strict=True):
        pack_slabs(x, packing, slab)
        pack_vectors(x, packing, row)
    written = sum(x.nbytes for x in out)
    return [
        ("copy of a layer", lambda: [to.copy_(x) for to, x in zip(out, plain, strict=True)], 2 * written),
        (
            "layer unpacked from slabs",
            lambda: [unpack_slabs(data, packing, to) for data, to in zip(slabs, out, strict=True)],
            written + sum(x.nbytes for x in slabs),
        ),
        (
            "layer unpacked from rows",
            lambda: [unpack_rows(data, packing, to) for data, to in zip(rows, out, strict=True)],
            written + sum(x.nbytes for x in rows),
        ),
    ]


def caches(packing: Packing) -> list[Case]:
    """A prompt's keys and values packed, one token's, and attention over both kinds of cache."""
    pairs = torch.randn(GRAINS, 2, CONTEXT, HEAD_DIM, device="cuda", dtype=DTYPE)
    packed = torch.empty(GRAINS, 2, CONTEXT, packing.vector_bytes(HEAD_DIM), device="cuda", dtype=torch.uint8)
    q = torch.randn(GRAINS, 1, HEAD_DIM, device="cuda", dtype=DTYPE)
    pads = torch.zeros(GRAINS, dtype=torch.int64, device="cuda")
    last = torch.tensor(CONTEXT - 1, device="cuda")
    token, at = pairs[:, :, -1:], packed[:, :, -1:]
    return [
        ("prompt packed", lambda: pack_vectors(pairs, packing, packed), pairs.nbytes + packed.nbytes),
        ("token packed", lambda: pack_vectors(token, packing, at), (pairs.nbytes + packed.nbytes) // CONTEXT),
        ("attention, 16 bits", lambda: decode_attention(q, pairs, pads, last, 0.1), pairs.nbytes),
        ("attention, packed", lambda: decode_attention_packed(q, packed, packing, pads, last, 0.1), packed.nbytes),
    ]


if __name__ == "__main__":
    main()
