"""The Schedule protocol: what turns a problem and a policy into a task graph."""

from __future__ import annotations

from typing import Protocol

from flexplan.graph import TaskGraph
from flexplan.policy import Policy
from flexplan.problem import Problem


class Schedule(Protocol):
    """Turns a problem's first block under a policy into tasks.

    ``build`` may be called often and must not keep state between calls.
    """

    def build(self, problem: Problem, policy: Policy) -> TaskGraph: ...
