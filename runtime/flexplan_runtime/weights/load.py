"""Loading: every weight straight to its place, read once, several layers at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from flexplan.placement import BUFFER_ALIGN, LayerWeights, Layout, Piece, Placement
from flexplan.units import round_up
from flexplan_runtime.memory import Arenas, Ledger, aligned_bytes
from flexplan_runtime.weights.checkpoint import WeightReader
from flexplan_runtime.weights.packed import read_packed

ReadPacked = Callable[[WeightReader, Piece, Tensor, torch.dtype], None]
Read = Callable[[Piece, Tensor], None]  # a piece as it is stored, into these bytes

_PART_BYTES = 64 << 20  # one thread alone with a token table of a gigabyte would outlast all others
_LOCKERS = 2  # the driver locks one range at a time, but for a second one it has everything ready

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

    layout = Layout.of(placement)
    # each thread works for itself: a team of its own for every one of them would be threads squared
    pool = ThreadPoolExecutor(num_threads, "flexplan-load", torch.set_num_threads, (1,))
    lockers = ThreadPoolExecutor(_LOCKERS, "flexplan-lock")
    try:
        layers = [(w, [pool.submit(fill) for fill in _fills(layout, w, arenas, read)]) for w in placement.weights]
        locks = []
        for w, filled in layers:
            for part in filled:
                part.result()
            locks.append(lockers.submit(_lock, layout, w, arenas))  # while the next ones are filled
        for lock in locks:
            lock.result()
    finally:
        pool.shutdown(cancel_futures=True)
        lockers.shutdown(cancel_futures=True)


def _fills(layout: Layout, w: LayerWeights, arenas: Arenas, read: Read) -> Iterator[Callable[[], None]]:
    """What fills a layer's parts: by parts of each piece in memory, at once for all that goes to disk."""
    for piece in w.pieces:
        if piece.tier != "disk":
            buffer = layout.buffers[WEIGHT_BUFFERS[piece.tier]]
            home = arenas.memory[buffer.arena][buffer.offsets[w.j] :]
            for part in _parts(piece):
                yield partial(_fill, [part], home, read, arenas.ledger)
    if w.part_bytes["disk"]:
        yield partial(_write, layout, w, arenas, read)


def _parts(piece: Piece) -> Iterator[Piece]:
    """A piece by stretches of rows; a packed one is quantised as a whole."""
    if piece.tensor.packing:
        yield piece
        return
    row_bytes = piece.tensor.rows_bytes(1)
    step = max(1, _PART_BYTES // row_bytes)
    for lo in range(piece.row_lo, piece.row_hi, step):
        hi = min(lo + step, piece.row_hi)
        yield replace(piece, row_lo=lo, row_hi=hi, offset=piece.offset + (lo - piece.row_lo) * row_bytes)


def _write(layout: Layout, w: LayerWeights, arenas: Arenas, read: Read) -> None:
    """Put the disk's part of a layer there."""
    buffer, part = layout.buffers[WEIGHT_BUFFERS["disk"]], aligned_bytes(w.part_bytes["disk"])
    part.zero_()  # what pads the blocks is written too
    _fill([piece for piece in w.pieces if piece.tier == "disk"], part, read, arenas.ledger)
    arenas.disk[buffer.arena].write(buffer.offsets[w.j], part)


def _lock(layout: Layout, w: LayerWeights, arenas: Arenas) -> None:
    """Page-lock what the host keeps of a layer."""
    if w.part_bytes["cpu"]:
        buffer = layout.buffers[WEIGHT_BUFFERS["cpu"]]
        lo, hi = buffer.offsets[w.j], buffer.offsets[w.j] + buffer.sizes[w.j]
        arenas.lock_range(buffer.arena, lo, round_up(hi, BUFFER_ALIGN))


def _fill(pieces: Sequence[Piece], part: Tensor, read: Read, ledger: Ledger) -> None:
    for piece in pieces:
        out = part[piece.offset : piece.offset + piece.nbytes]
        read(piece, out)
        ledger.store("w", piece.tier, out.nbytes)
