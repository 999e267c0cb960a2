"""The adapter: a small program, and the ways in which one can have no answer."""

from __future__ import annotations

import pytest
from flexplan_planners.lp import Constraint, minimise

ROWS = [Constraint("need", {"x": 1.0, "y": 2.0}, ">=", 3.0), Constraint("limit", {"x": 1.0}, "<=", 2.0)]


def test_the_optimum_comes_with_its_duals() -> None:
    answer = minimise({"x": 1.0, "y": 3.0}, ROWS)
    assert answer.optimal
    assert answer.objective == pytest.approx(3.5)
    assert answer.values == pytest.approx({"x": 2.0, "y": 0.5})
    assert answer.duals == pytest.approx({"need": 1.5, "limit": -0.5})


def test_contradictory_rows_are_infeasible_and_give_no_numbers() -> None:
    answer = minimise({"x": 1.0, "y": 3.0}, [*ROWS, Constraint("less", {"y": 1.0}, "<=", 0.1)])
    assert (answer.status, dict(answer.values)) == ("infeasible", {})


def test_an_objective_without_end_is_unbounded() -> None:
    assert minimise({"x": -1.0}, [Constraint("some", {"x": 1.0}, ">=", 0.1)]).status == "unbounded"


def test_the_highest_value_of_a_variable_is_kept() -> None:
    most = Constraint("most", {"x": 1.0}, "<=", 7.0)
    assert minimise({"x": -1.0}, [most]).values["x"] == pytest.approx(7)


def test_a_violated_row_is_seen() -> None:
    assert ROWS[0].violation({"x": 1.0, "y": 0.5}) == pytest.approx(1 / 3)
    assert ROWS[1].violation({"x": 1.0}) < 0
