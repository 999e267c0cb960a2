"""The rolling schedule: one pass over the weights serves whoever is there, and who has ended makes room at once."""

from __future__ import annotations

from flexplan.graph import TaskGraph
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.schedule import rolling_graph


class Rolling:
    """Requests take seats, decode a token a pass, and leave; newcomers' prompts share the pass."""

    rolls = True

    def build(self, problem: Problem, policy: Policy) -> TaskGraph:
        """The graph of the whole job."""
        return rolling_graph("rolling", problem, policy)
