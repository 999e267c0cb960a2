"""A cache whose columns are a ring: place t of two laps is column t modulo the ring.

Letters as in `attention`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unrolled(pairs_G2TH: Tensor, pads_G: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """Keys and values of the last lap before ``context`` in the order of places, and the pads counted from there.

    Where the context is within the first lap nothing is moved.
    """
    room = pairs_G2TH.shape[2]
    if context <= room:
        return pairs_G2TH[:, :, :context], pads_G
    first = context - room
    columns = torch.arange(first, context, device=pairs_G2TH.device) % room
    return pairs_G2TH.index_select(2, columns), pads_G - first
