"""Where the rows of a layer's experts lie: in row pieces of several memories, each expert's in its own order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

GROUP = 64  # rows of a weight that lie together
UNIT = 16  # bytes: addresses are multiples of it, or loads would be narrow


class RowTable(NamedTuple):
    """Where the rows of all experts' weights lie: (X, groups) distances from ``base`` in units of 16 bytes.

    And their biases, where they have some: (X,) distances from ``bias`` in elements.
    """

    base: Tensor
    units_XG: Tensor
    bias: Tensor | None = None
    biases_X: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What a table is made from again."""
        return tuple(x for x in self if x is not None)


class Gate(NamedTuple):
    """What becomes of the first product's gates and what they let through, up.

    silu(gate) x up, of rows whose first half are gates; or with an ``alpha`` above 0, as in gpt-oss, gate x
    sigmoid(alpha x gate) x (up + 1), of rows that are gates and ups in turns, gates up to ``limit`` and ups within it.
    """

    alpha: float = 0.0
    limit: float = 0.0  # 0: none


SILU = Gate()


def row_table(experts: Sequence[Sequence[Tensor]], biases: Sequence[Sequence[Tensor]] = ()) -> RowTable | None:
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
    table = RowTable(base, torch.tensor(found, dtype=torch.int64, device=base.device))
    if not biases:
        return table
    first = biases[0][0]
    if any(len(pieces) > 1 for pieces in biases):
        return None
    distances = [(each.data_ptr() - first.data_ptr()) // first.element_size() for (each,) in biases]
    return table._replace(bias=first, biases_X=torch.tensor(distances, dtype=torch.int64, device=base.device))
