"""Schedules of other packages: what they have in common; an instance of one, which runs here."""

from __future__ import annotations

from flexplan.errors import FlexplanError
from flexplan.graph import TaskGraph
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.sandbox.bounds import Bounds, failed
from flexplan.schedule import Schedule


class ThirdParty:
    """A schedule of another package, with the name that errors call it."""

    name: str

    def build(self, problem: Problem, policy: Policy) -> TaskGraph:
        """Its graph, bounded."""
        raise NotImplementedError


class Guarded(ThirdParty):
    """An instance."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.name = type(schedule).__name__

    def build(self, problem: Problem, policy: Policy) -> TaskGraph:
        """The graph that the instance builds."""
        bounds = Bounds.of(self.name, problem, policy)
        try:
            graph = self.schedule.build(problem, policy)
        except FlexplanError:
            raise
        except (Exception, SystemExit) as error:
            raise failed(self.name, f"{error!r:.500}") from error
        return bounds.applied(graph)
