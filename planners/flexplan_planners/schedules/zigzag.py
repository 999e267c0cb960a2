"""The zig-zag block schedule, the paper's Algorithm 1: one pass over the weights serves the whole block."""

from __future__ import annotations

from flexplan.graph import TaskGraph
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.schedule import graph_of


class ZigZag:
    """Token by token, layer by layer, micro-batch by micro-batch."""

    def build(self, problem: Problem, policy: Policy) -> TaskGraph:
        """The graph of the problem's first block."""
        return graph_of(
            "zigzag",
            problem,
            policy,
            lambda block: [(i, range(len(block.batches))) for i in range(block.gen_len)],
        )
