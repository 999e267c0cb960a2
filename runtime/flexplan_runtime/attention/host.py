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
from flexplan_runtime.attention.scored import scored_attention
from flexplan_runtime.attention.sparse import sparse_attention
from flexplan_runtime.kernels.attention_rule import AttentionRule
from flexplan_runtime.kernels.host import GrainAttention, Pages


class HostAttention:
    """One new position of each grain over its context, into ``out``: by the compiled kernel where there is one."""

    def __init__(
        self, q_GPH: Tensor, pairs_G2TH: Tensor, pads_G: Tensor, rule: AttentionRule, out_GPH: Tensor, threads: int,
        packing: Packing | None = None, sparsity: float = 1.0, first_grain: int = 0, laps: int = 1,
    ) -> None:  # fmt: skip
        """With a packing, keys and values are (G, 2, T, bytes of a vector); ``pads`` may change between two calls.

        With two laps they are a ring, whose places are counted on in the second.
        """
        self.q_GPH, self.pairs_G2TH, self.pads_G, self.out_GPH = q_GPH, pairs_G2TH, pads_G, out_GPH
        self.rule, self.packing, self.sparsity, self.first_grain = rule, packing, sparsity, first_grain
        self._kernel = None
        if rule.is_plain_but_sinks:
            pages, sinks_GP = Pages.of([pairs_G2TH] * laps), rule.sinks_GP(first_grain, len(q_GPH))
            self._kernel = GrainAttention(
                q_GPH, pages, pads_G, rule.scale, out_GPH, threads, packing, sparsity, sinks_GP
            )

    def __call__(self, context: int) -> None:
        """Over the first ``context`` tokens."""
        if self._kernel is None or not self._kernel(context):
            self.out_GPH.copy_(self._by_the_framework(context))

    def _by_the_framework(self, context: int) -> Tensor:
        rule = self.rule
        if self.sparsity >= 1 and not rule.is_plain:
            given_all = self.q_GPH, self.pairs_G2TH, self.pads_G, context, rule, self.packing
            return scored_attention(*given_all, self.first_grain)
        pairs, pads_G = unrolled(self.pairs_G2TH, self.pads_G, context)
        if self.sparsity < 1:
            given = self.q_GPH, pairs, pads_G, pairs.shape[2], rule, self.sparsity, self.packing
            return sparse_attention(*given, self.first_grain)
        if self.packing is not None:
            return by_blocks(self.q_GPH, pairs, self.packing, pads_G, rule.scale)
        return grain_attention(self.q_GPH, pairs[:, 0], pairs[:, 1], pads_G, rule.scale)
