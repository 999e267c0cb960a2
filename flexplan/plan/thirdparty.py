"""Plans of other packages' planners, trusted in nothing but their wish: which policy, under which schedule.

The answer is read as strictly as a file, must be for the problem that was asked, and is placed, held against
the budgets and simulated here.  What does not hold up is a PluginError that names the planner.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flexplan.errors import FlexplanError, PluginError
from flexplan.limits import MOST_PLAN_BYTES
from flexplan.plan.plan import Plan
from flexplan.plugins import PLANNERS, available, is_ours
from flexplan.policy import Policy, read_strict_json
from flexplan.problem import Problem


def is_thirdparty(planner: Any) -> bool:
    """Whether a planner, by name or as an object, is of another package; an unknown name is nobody's."""
    if isinstance(planner, str):
        point = available(PLANNERS).get(planner)
        return point is not None and not is_ours(point.value)
    return not is_ours(f"{type(planner).__module__}.")


def thirdparty_plan(problem: Problem, planner: Any, options: Mapping[str, Any], timeout_s: float) -> Plan:
    """The plan that a third-party planner wishes for, made here.

    Raises PluginError, or the InfeasiblePlan of the planner.
    """
    from flexplan.plan import sandbox  # subprocess and threads: only for those who need them

    name = name_of(planner)
    if isinstance(planner, str):
        text = sandbox.answer_by_name(problem, planner, options, timeout_s)
    else:
        text = sandbox.answer_of_instance(problem, planner, name, timeout_s)
    with blamed_on(name):
        given = read_strict_json(text, "its plan", MOST_PLAN_BYTES)
        policy, schedule = Policy.from_dict(given["policy"]), str(given["schedule"])
        if given["problem"] != problem.model_dump(mode="json"):
            raise _refused("its plan answers another problem")
        return Plan.of(problem, policy, schedule=schedule, planner=str(given["planner"]))


def name_of(planner: Any) -> str:
    """What errors call it."""
    return planner if isinstance(planner, str) else type(planner).__name__


@contextmanager
def blamed_on(name: str) -> Iterator[None]:
    """Whatever is wrong with a plan is its planner's doing, and said so."""
    try:
        yield
    except Exception as error:  # a stranger's text may lack anything
        why = error.message if isinstance(error, FlexplanError) else repr(error)
        message = f"planner {name} returned a plan that does not hold up: {why}"
        raise PluginError("FP906", message, fix="report it to its author") from error


def _refused(why: str) -> PluginError:
    return PluginError("FP906", why)
