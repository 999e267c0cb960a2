"""The built-in planners and schedules keep the contract that plug-ins are held to."""

from __future__ import annotations

from collections.abc import Sequence

from flexplan_planners.lp_planner import LpPlanner
from flexplan_planners.manual_planner import ManualPlanner
from flexplan_planners.schedules.rowwise import RowWise
from flexplan_planners.schedules.zigzag import ZigZag
from flexplan_planners.search_planner import SearchPlanner

from flexplan.plan import Planner, Schedule
from flexplan.problem import Problem
from flexplan.testing import PlannerContract, ScheduleContract, policy_with, small_problem
from flexplan.units import MiB


class TestManual(PlannerContract):
    def make_planner(self) -> Planner:
        return ManualPlanner(policy_with(2, 2, w=(20.0, 80.0), cache=(0.0, 100.0)))

    def problems(self) -> Sequence[Problem]:
        return [small_problem(gpu_mem=64 * MiB)]


class TestLp(PlannerContract):
    def make_planner(self) -> Planner:
        return LpPlanner()


class TestSearch(PlannerContract):
    def make_planner(self) -> Planner:
        return SearchPlanner()


class TestSearchOfRowWise(PlannerContract):
    def make_planner(self) -> Planner:
        return SearchPlanner(schedule="rowwise")


class TestZigZag(ScheduleContract):
    def make_schedule(self) -> Schedule:
        return ZigZag()


class TestRowWise(ScheduleContract):
    def make_schedule(self) -> Schedule:
        return RowWise()
