"""The smallest planner: percents as written."""

from __future__ import annotations

from flexplan.plan import Plan
from flexplan.policy import Policy
from flexplan.problem import Problem


class ManualPlanner:
    """A policy by hand."""

    def __init__(self, policy: Policy | None = None, schedule: str = "zigzag") -> None:
        self.policy = policy or Policy()
        self.schedule = schedule

    def plan(self, problem: Problem) -> Plan:
        """The given policy, placed and simulated."""
        return Plan.of(problem, self.policy, schedule=self.schedule, planner="manual")
