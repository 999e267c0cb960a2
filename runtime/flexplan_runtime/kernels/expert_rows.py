"""Where the rows of a layer's experts lie: in row pieces of several memories, each expert's in its own order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

GROUP = 64  # rows of a weight that lie together
UNIT = 16  # bytes: addresses are multiples of it, or loads would be narrow


class RowTable(NamedTuple):
    """Where the rows of all experts' weights lie: (X, groups) distances from ``base`` in units of 16 bytes."""

    base: Tensor
    units_XG: Tensor


def row_table(experts: Sequence[Sequence[Tensor]]) -> RowTable | None:
    """The table of weights (rows, cols), one or more row pieces an expert; None where rows do not lie as it needs."""
    base = experts[0][0]
    row_bytes = base.shape[1] * base.element_size()
    found: list[list[int]] = []
    for pieces in experts:
        units: list[int] = []
        for n, piece in enumerate(pieces):
            last = n + 1 == len(pieces)
            if piece.data_ptr() % UNIT or row_bytes % UNIT or (len(piece) % GROUP and not last):
                return None
            first = (piece.data_ptr() - base.data_ptr()) // UNIT
            units += range(first, first + len(piece) * row_bytes // UNIT, GROUP * row_bytes // UNIT)
        found.append(units)
    return RowTable(base, torch.tensor(found, dtype=torch.int64, device=base.device))
