"""The Schedule protocol: what turns a problem and a policy into a task graph."""

from __future__ import annotations

from typing import Protocol

from flexplan.graph import TaskGraph
from flexplan.policy import Block, Policy, fill_blocks, rolling_block
from flexplan.problem import Problem, Workload


class Schedule(Protocol):
    """Turns a problem's first block under a policy into tasks.

    ``build`` may be called often and must not keep state between calls.
    """

    def build(self, problem: Problem, policy: Policy) -> TaskGraph: ...


def rolls(schedule: Schedule) -> bool:
    """Is its graph that of a whole job, in which requests come and go?  A built-in schedule says so by ``rolls``."""
    return bool(getattr(schedule, "rolls", False))


def first_block(schedule: Schedule, workload: Workload, policy: Policy) -> Block:
    """What the first graph of a schedule is for: the first prompts, or the seats that all of them take in turn."""
    return rolling_block(workload, policy) if rolls(schedule) else next(fill_blocks(workload, policy))
