"""flexplan: which tensor lives where, what moves when, and how fast it will be.

>>> from flexplan import Problem, solve

errors      The errors people see; each names what was asked, what there is, and which knob to turn.
files       JSON without its traps; files are replaced whole or not at all.
limits      How large a number, a name or a file may be.
parameters  What becomes of each parameter that people bring: used, refused, or left out with a warning.
plugins     Planners, schedules and runtimes, found through entry points.
sequences   Sequences of what is made when it is looked at.
signals     Ctrl-C, SIGTERM and SIGHUP end the program quietly.
testing     Contracts as test classes, for planners and schedules of other packages.
units       Sizes as people type them.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing takes longer to import than all of this

if TYPE_CHECKING:
    from typing import Any

    from flexplan.errors import FlexplanError, InfeasiblePlan
    from flexplan.explanation import explain
    from flexplan.graph import Task, TaskGraph, Timeline
    from flexplan.hardware import Hardware
    from flexplan.model import ModelShape
    from flexplan.plan import Plan, simulate, solve
    from flexplan.policy import CompressionConfig, Policy
    from flexplan.problem import Problem, Workload

__all__ = [
    "CompressionConfig",
    "FlexplanError",
    "Hardware",
    "InfeasiblePlan",
    "ModelShape",
    "Plan",
    "Policy",
    "Problem",
    "Task",
    "TaskGraph",
    "Timeline",
    "Workload",
    "explain",
    "simulate",
    "solve",
]

# a name is imported when it is first asked for, so that `import flexplan` costs nothing
_HOMES = {
    "CompressionConfig": "policy.policy",
    "FlexplanError": "errors",
    "Hardware": "hardware.machine",
    "InfeasiblePlan": "errors",
    "ModelShape": "model.shape",
    "Plan": "plan.plan",
    "Policy": "policy.policy",
    "Problem": "problem.problem",
    "Task": "graph.tasks",
    "TaskGraph": "graph.graph",
    "Timeline": "graph.timeline",
    "Workload": "problem.problem",
    "explain": "explanation.explanation",
    "simulate": "plan.plan",
    "solve": "plan.planner",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "__version__":
        from importlib.metadata import version

        return version("flexplan")
    if name not in _HOMES:
        raise AttributeError(f"module 'flexplan' has no attribute {name!r}")
    found = getattr(import_module(f"flexplan.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
