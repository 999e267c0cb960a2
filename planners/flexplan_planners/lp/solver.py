"""A linear program as plain data, solved by HiGHS through PuLP 3.3 or 4.x, and an answer that was checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import highspy
import pulp

Sense = Literal["<=", ">=", "=="]
Status = Literal["optimal", "infeasible", "unbounded", "failed"]

_TOLERANCE = 1e-5  # of a row's largest term: what a solver's own 1e-7 may grow to
_OPTIMAL, _INFEASIBLE, _UNBOUNDED = 1, -1, -2  # the same numbers in both PuLPs


@dataclass(frozen=True, slots=True)
class Constraint:
    """``sum(coefficient * variable) sense bound``."""

    name: str
    terms: Mapping[str, float]
    sense: Sense
    bound: float

    def violation(self, values: Mapping[str, float]) -> float:
        """How far the values are on the wrong side, as a share of the row's largest term."""
        products = [coefficient * values[name] for name, coefficient in self.terms.items()]
        gap = sum(products) - self.bound
        wrong = {"<=": gap, ">=": -gap, "==": abs(gap)}[self.sense]
        return wrong / max(1.0, abs(self.bound), *map(abs, products))


@dataclass(frozen=True, slots=True)
class Answer:
    """``values`` and ``duals`` are empty unless the status is optimal.

    A dual is what the objective gains when its constraint's bound grows by one.
    """

    status: Status
    objective: float = float("inf")
    values: Mapping[str, float] = field(default_factory=dict)
    duals: Mapping[str, float] = field(default_factory=dict)

    @property
    def optimal(self) -> bool:
        return self.status == "optimal"


def minimise(objective: Mapping[str, float], constraints: Sequence[Constraint]) -> Answer:
    """The smallest objective over variables that are at least 0."""
    problem = pulp.LpProblem("flexplan", pulp.LpMinimize)
    names = dict.fromkeys([*objective, *(name for row in constraints for name in row.terms)])
    variables = {name: problem.add_variable(name, 0) for name in names}
    problem.setObjective(_expression(variables, objective))
    for row in constraints:
        problem.addConstraint(_compare(_expression(variables, row.terms), row), row.name)
    status = _status(problem.solve(_Silent(msg=False)))
    if status == _INFEASIBLE:
        return Answer("infeasible")
    if status == _UNBOUNDED:
        return Answer("unbounded")
    values = {name: variable.value() for name, variable in variables.items()}
    if status != _OPTIMAL or not _holds(values, constraints):  # an infeasible program may still return numbers
        return Answer("failed")
    values = {name: max(value, 0.0) for name, value in values.items()}
    total = sum(coefficient * values[name] for name, coefficient in objective.items())
    return Answer("optimal", total, values, _duals(problem))


def _holds(values: Mapping[str, float | None], constraints: Sequence[Constraint]) -> bool:
    known = {name: value for name, value in values.items() if value is not None}
    return len(known) == len(values) and all(row.violation(known) <= _TOLERANCE for row in constraints)


class _SilentHighs(highspy.Highs):  # type: ignore[misc]  # untyped here
    """HiGHS that writes nothing: since 1.16 it greets as soon as callbacks are enabled, which is when it is made."""

    def enableCallbacks(self) -> None:
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()


class _Silent(pulp.HiGHS):  # type: ignore[misc]  # untyped here
    """PuLP's HiGHS around it."""

    def createAndConfigureSolver(self, lp: Any) -> None:
        lp.solverModel = _SilentHighs()
        lp.solverModel.setOptionValue("output_flag", False)  # an older one enables callbacks later, or never


# -- where PuLP 3 and 4 differ -----------------------------------------------------------------------------------
def _expression(variables: Mapping[str, Any], terms: Mapping[str, float]) -> Any:
    """PuLP 4 builds an expression by a class method, PuLP 3 by the constructor."""
    build = getattr(pulp.LpAffineExpression, "from_dict", pulp.LpAffineExpression)
    return build({variables[name]: coefficient for name, coefficient in terms.items()})


def _compare(expression: Any, row: Constraint) -> Any:
    if row.sense == "<=":
        return expression <= row.bound
    return expression >= row.bound if row.sense == ">=" else expression == row.bound


def _status(result: Any) -> int:
    """PuLP 3 returns the status, PuLP 4 statistics that hold it."""
    return int(result if isinstance(result, int) else result.status)


def _duals(problem: Any) -> dict[str, float]:
    """PuLP 3 keeps constraints in a dict, PuLP 4 in a method."""
    found = problem.constraints() if callable(problem.constraints) else problem.constraints.values()
    return {row.name: float(row.pi or 0.0) for row in found}
