"""Row by row: one micro-batch through all its tokens before the next, as everyone else does it."""

from __future__ import annotations

from flexplan.graph import TaskGraph
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.schedule import graph_of


class RowWise:
    """Micro-batch by micro-batch, token by token, layer by layer: every micro-batch streams the weights anew."""

    def build(self, problem: Problem, policy: Policy) -> TaskGraph:
        """The graph of the problem's first block."""
        return graph_of(
            "rowwise",
            problem,
            policy,
            lambda block: [(i, (k,)) for k in range(len(block.batches)) for i in range(block.gen_len)],
            live=1,
        )
