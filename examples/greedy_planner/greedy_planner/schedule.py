"""The zig-zag with its micro-batches in reverse: another order, the same tokens."""

from __future__ import annotations

from flexplan.graph import TaskGraph
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.schedule import graph_of


class Reversed:
    """Token by token, layer by layer, the last micro-batch first."""

    def build(self, problem: Problem, policy: Policy) -> TaskGraph:
        """The graph of the problem's first block."""
        return graph_of(
            "reversed",
            problem,
            policy,
            lambda block: [(i, range(len(block.batches) - 1, -1, -1)) for i in range(block.gen_len)],
        )
