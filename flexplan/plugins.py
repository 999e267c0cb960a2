"""Planners, schedules and runtimes come through entry points: the built-in ones and yours by the same door."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from flexplan import signals
from flexplan.errors import PluginError, UsageError, did_you_mean

PLANNERS, SCHEDULES, RUNTIMES = "flexplan.planners", "flexplan.schedules", "flexplan.runtimes"
_OURS = "flexplan_planners."


def available(group: str) -> Mapping[str, EntryPoint]:
    """What is installed in a group, by name."""
    return _available(group, tuple((path, _changed(path)) for path in sys.path))


@lru_cache(maxsize=8)
def _available(group: str, _installed: tuple[tuple[str, int], ...]) -> Mapping[str, EntryPoint]:
    """Looked up again where packages came or went: to look takes 10 ms, and a solve asks ten times."""
    return {point.name: point for point in entry_points(group=group)}


def _changed(path: str) -> int:
    """When a name was put into a folder, or taken out of it, for the last time."""
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0


def is_ours(module: str) -> bool:
    """Whether a module, or an entry point's value, is of flexplan's own planners and schedules."""
    return module.startswith(_OURS)


def find(group: str, name: str) -> EntryPoint:
    """Where a name leads, of which nothing is imported yet; an unknown one is a UsageError."""
    points = available(group)
    if name not in points:
        what = group.rpartition(".")[2]
        fix = did_you_mean(name, points, f"installed: {', '.join(sorted(points)) or 'none'}")
        raise UsageError("FP130", f"no {what[:-1]} is called {name!r}", fix=fix)
    return points[name]


def load(group: str, name: str) -> Any:
    """The object behind a name; an unknown name is a UsageError, one that does not import a PluginError."""
    return _loaded(name, find(group, name))


def make(group: str, name: str, **options: Any) -> Any:
    """An instance: a class or factory is called with ``options``, an object is taken as it is.

    A schedule of another package is wanted by `flexplan.sandbox.schedule_of`, which bounds it.
    """
    return made(group, name, find(group, name), **options)


def made(group: str, name: str, point: EntryPoint, **options: Any) -> Any:
    """The same of what was found."""
    found = _loaded(name, point)
    if not callable(found) or (not options and not isinstance(found, type) and _is_instance(group, found)):
        return found
    try:
        return found(**options)
    except TypeError as error:
        raise PluginError("FP902", f"{name} does not take {options}: {error}", fix="leave these options out") from error


def _loaded(name: str, point: EntryPoint) -> Any:
    try:
        with signals.Deferred():
            return point.load()
    except Exception as error:  # anything may happen while a stranger's module is imported
        raise PluginError(
            "FP901", f"{point.value} ({name}) does not load: {error!r}", fix="correct or uninstall that package"
        ) from error


def _is_instance(group: str, found: Any) -> bool:
    return hasattr(found, {PLANNERS: "plan", SCHEDULES: "build"}.get(group, "run"))
