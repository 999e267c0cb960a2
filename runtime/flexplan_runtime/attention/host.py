"""Attention on the host over memory that stays where it is.

What each pass would find out again is found out once: a lane that calls the framework less often waits less often
for the interpreter.  Letters as in `attention`.
"""

from __future__ import annotations

from torch import Tensor

from flexplan.model import Packing
from flexplan_runtime.attention.dense import grain_attention
from flexplan_runtime.attention.packed import by_blocks
from flexplan_runtime.attention.ring import unrolled
from flexplan_runtime.attention.sparse import sparse_attention
from flexplan_runtime.kernels.host import GrainAttention, Pages


class HostAttention:
    """One new position of each grain over its context, into ``out``: by the compiled kernel where there is one."""

    def __init__(
        self, q_GPH: Tensor, pairs_G2TH: Tensor, pads_G: Tensor, scale: float, out_GPH: Tensor, threads: int,
        packing: Packing | None = None, sparsity: float = 1.0, laps: int = 1,
    ) -> None:  # fmt: skip
        """With a packing, keys and values are (G, 2, T, bytes of a vector); with two laps they are a ring."""
        self.q_GPH, self.pairs_G2TH, self.pads_G, self.out_GPH = q_GPH, pairs_G2TH, pads_G, out_GPH
        self.scale, self.packing, self.sparsity = scale, packing, sparsity
        pages = Pages.of([pairs_G2TH] * laps)
        self._kernel = GrainAttention(q_GPH, pages, pads_G, scale, out_GPH, threads, packing, sparsity)

    def __call__(self, context: int) -> None:
        """Over the first ``context`` tokens."""
        if not self._kernel(context):
            self.out_GPH.copy_(self._by_the_framework(*unrolled(self.pairs_G2TH, self.pads_G, context)))

    def _by_the_framework(self, pairs: Tensor, pads_G: Tensor) -> Tensor:
        if self.sparsity < 1:
            context = pairs.shape[2]
            return sparse_attention(self.q_GPH, pairs, pads_G, context, self.scale, self.sparsity, self.packing)
        if self.packing is not None:
            return by_blocks(self.q_GPH, pairs, self.packing, pads_G, self.scale)
        return grain_attention(self.q_GPH, pairs[:, 0], pairs[:, 1], pads_G, self.scale)
