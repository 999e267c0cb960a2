"""Loading: every weight straight to its place, read once, several layers at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from flexplan.graph import Buffer
from flexplan.placement import Placement
from flexplan.weight_placement import LayerWeights
from flexplan_runtime.arenas import Arenas, Ledger
from flexplan_runtime.hostmemory import aligned_bytes
from flexplan_runtime.packedweights import read_packed
from flexplan_runtime.weights import WeightReader

WEIGHT_BUFFERS = {"gpu": "weights_gpu", "cpu": "weights_cpu", "disk": "weights_disk"}


def load_weights(
    placement: Placement, arenas: Arenas, reader: WeightReader, dtype: torch.dtype, num_threads: int
) -> None:
    """Fill the weight arenas; the first error of any thread is raised."""
    with ThreadPoolExecutor(num_threads, thread_name_prefix="flexplan-load") as pool:
        jobs = [pool.submit(_load_layer, placement, w, arenas, reader, dtype) for w in placement.weights]
        for job in jobs:
            job.result()


def _load_layer(p: Placement, w: LayerWeights, arenas: Arenas, reader: WeightReader, dtype: torch.dtype) -> None:
    for tier, name in WEIGHT_BUFFERS.items():
        if not w.part_bytes[tier]:
            continue
        buffer = p.buffers[name]
        if tier == "disk":
            part = aligned_bytes(w.part_bytes[tier])
            part.zero_()  # what pads the blocks is written too
            _fill(w, tier, part, reader, dtype, arenas.ledger)
            arenas.disk[buffer.arena].write(buffer.offsets[w.j], part)
        else:
            _fill(w, tier, _part(arenas, buffer, w.j), reader, dtype, arenas.ledger)


def _part(arenas: Arenas, buffer: Buffer, j: int) -> Tensor:
    return arenas.memory[buffer.arena][buffer.offsets[j] : buffer.offsets[j] + buffer.sizes[j]]


def _fill(w: LayerWeights, tier: str, part: Tensor, reader: WeightReader, dtype: torch.dtype, ledger: Ledger) -> None:
    for piece in w.pieces:
        if piece.tier == tier:
            out = part[piece.offset : piece.offset + piece.nbytes]
            if piece.tensor.packing:
                read_packed(reader, piece, out, dtype)
            else:
                reader.read_rows(piece.tensor.name, piece.tensor.layer, piece.row_lo, piece.rows, out.view(dtype))
            ledger.store("w", tier, out.nbytes)
