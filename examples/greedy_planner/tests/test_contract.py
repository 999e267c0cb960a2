"""flexplan's own tests of a planner and a schedule, run on these, as the entry points find them."""

from __future__ import annotations

from collections.abc import Sequence

from flexplan.plan import Planner, Schedule
from flexplan.plugins import PLANNERS, SCHEDULES, make
from flexplan.problem import Problem
from flexplan.testing import PlannerContract, ScheduleContract, small_problem
from flexplan.units import MiB


class TestGreedy(PlannerContract):
    def make_planner(self) -> Planner:
        planner: Planner = make(PLANNERS, "greedy", schedule="reversed")
        return planner

    def problems(self) -> Sequence[Problem]:
        return [small_problem(gpu_mem=10 * MiB), small_problem(gpu_mem=64 * MiB)]


class TestReversed(ScheduleContract):
    def make_schedule(self) -> Schedule:
        schedule: Schedule = make(SCHEDULES, "reversed")
        return schedule
