"""Planners, schedules and runtimes come through entry points: the built-in ones and yours by the same door."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from flexplan import signals
from flexplan.errors import PluginError, UsageError, did_you_mean

PLANNERS, SCHEDULES, RUNTIMES = "flexplan.planners", "flexplan.schedules", "flexplan.runtimes"


def available(group: str) -> dict[str, EntryPoint]:
    """What is installed in a group, by name."""
    return {point.name: point for point in entry_points(group=group)}


def load(group: str, name: str) -> Any:
    """The object behind a name; an unknown name is a UsageError, one that does not import a PluginError."""
    points = available(group)
    if name not in points:
        what = group.rpartition(".")[2]
        fix = did_you_mean(name, points, f"installed: {', '.join(sorted(points)) or 'none'}")
        raise UsageError("FP130", f"no {what[:-1]} is called {name!r}", fix=fix)
    try:
        with signals.Deferred():
            return points[name].load()
    except Exception as error:  # anything may happen while a stranger's module is imported
        raise PluginError(
            "FP901", f"{points[name].value} ({name}) does not load: {error!r}", fix="correct or uninstall that package"
        ) from error


def make(group: str, name: str, **options: Any) -> Any:
    """An instance: a class or factory is called with ``options``, an object is taken as it is."""
    found = load(group, name)
    if not callable(found) or (not options and not isinstance(found, type) and _is_instance(group, found)):
        return found
    try:
        return found(**options)
    except TypeError as error:
        raise PluginError("FP902", f"{name} does not take {options}: {error}", fix="leave these options out") from error


def _is_instance(group: str, found: Any) -> bool:
    return hasattr(found, {PLANNERS: "plan", SCHEDULES: "build"}.get(group, "run"))


def is_ours(plugin: Any) -> bool:
    """Whether an object comes from flexplan's own packages, whose tests have seen all that it does."""
    return f"{type(plugin).__module__}.".startswith(("flexplan_planners.", "flexplan_runtime."))
