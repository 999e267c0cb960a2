"""Loading: every weight straight to its place, read once, several layers at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from flexplan.placement import BUFFER_ALIGN, Placement
from flexplan.units import round_up
from flexplan.weight_placement import LayerWeights, Piece
from flexplan_runtime.arenas import Arenas, Ledger
from flexplan_runtime.hostmemory import aligned_bytes
from flexplan_runtime.packedweights import read_packed
from flexplan_runtime.weights import WeightReader

ReadPacked = Callable[[WeightReader, Piece, Tensor, torch.dtype], None]
Read = Callable[[Piece, Tensor], None]  # a piece as it is stored, into these bytes

WEIGHT_BUFFERS = {"gpu": "weights_gpu", "cpu": "weights_cpu", "disk": "weights_disk"}


def load_weights(
    placement: Placement,
    arenas: Arenas,
    reader: WeightReader,
    dtype: torch.dtype,
    num_threads: int,
    packed: ReadPacked = read_packed,
) -> None:
    """Fill the weight arenas; the first error of any thread is raised."""

    def read(piece: Piece, out: Tensor) -> None:
        if piece.tensor.packing:
            packed(reader, piece, out, dtype)
        else:
            reader.read_rows(piece.tensor.name, piece.tensor.layer, piece.row_lo, piece.rows, out.view(dtype))

    # each thread works for itself: a team of its own for every one of them would be threads squared
    with ThreadPoolExecutor(num_threads, "flexplan-load", torch.set_num_threads, (1,)) as pool:
        jobs = [pool.submit(_load_layer, placement, w, arenas, read) for w in placement.weights]
        for job in jobs:
            job.result()


def _load_layer(p: Placement, w: LayerWeights, arenas: Arenas, read: Read) -> None:
    for tier, name in WEIGHT_BUFFERS.items():
        if not w.part_bytes[tier]:
            continue
        buffer = p.buffers[name]
        if tier == "disk":
            part = aligned_bytes(w.part_bytes[tier])
            part.zero_()  # what pads the blocks is written too
            _fill(w, tier, part, read, arenas.ledger)
            arenas.disk[buffer.arena].write(buffer.offsets[w.j], part)
        else:
            lo, hi = buffer.offsets[w.j], buffer.offsets[w.j] + buffer.sizes[w.j]
            _fill(w, tier, arenas.memory[buffer.arena][lo:hi], read, arenas.ledger)
            if tier == "cpu":  # meanwhile the other threads touch what is theirs
                arenas.lock_range(buffer.arena, lo, round_up(hi, BUFFER_ALIGN))


def _fill(w: LayerWeights, tier: str, part: Tensor, read: Read, ledger: Ledger) -> None:
    for piece in w.pieces:
        if piece.tier == tier:
            out = part[piece.offset : piece.offset + piece.nbytes]
            read(piece, out)
            ledger.store("w", tier, out.nbytes)
