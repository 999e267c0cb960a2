"""Schedules by name or instance, those of other packages bounded, and blamed by name for what goes wrong.

By name such a schedule is asked in a process of its own.  An instance is the caller's own code and runs here: its
graphs are bounded, but nothing can end it.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from functools import lru_cache

from flexplan.plugins import SCHEDULES, find, is_ours, made
from flexplan.sandbox.allowance import answerable, blamed_for_graph
from flexplan.sandbox.thirdparty import Guarded, ThirdParty
from flexplan.schedule import Schedule

_KEPT = 4  # schedules whose processes are kept for the next graph


def schedule_of(chosen: str | Schedule) -> Schedule:
    """The schedule to build graphs with, of a name or an instance; those of other packages are bounded.

    Raises UsageError for a name that nobody knows.  What others get wrong is a PluginError with their name.
    """
    if not isinstance(chosen, str):
        known = is_ours(f"{type(chosen).__module__}.") and "build" not in vars(chosen)  # set on it: a stranger's code
        bounded = type(chosen).__module__.startswith(f"{__package__}.")  # by an earlier call: `Guarded` or `Sandboxed`
        return chosen if known or bounded else Guarded(chosen)
    point = find(SCHEDULES, chosen)
    if is_ours(point.value):
        found: Schedule = made(SCHEDULES, chosen, point)
        return found
    return _sandboxed(chosen, point.value, tuple(sys.path))


def blame_of(chosen: str | Schedule, timeout_s: float | None = None) -> AbstractContextManager[None]:
    """To be entered while graphs of a schedule are placed, predicted or checked.

    One of another package is then to blame, by name, for whatever goes wrong (see `answerable`); ours never is.
    """
    schedule = schedule_of(chosen)
    return answerable(schedule.name if isinstance(schedule, ThirdParty) else None, timeout_s)


def graph_blame_of(schedule: Schedule) -> AbstractContextManager[None]:
    """The same while its graph runs: only what is said of the graph itself is its doing, not what a runtime meets."""
    return blamed_for_graph(schedule.name if isinstance(schedule, ThirdParty) else None)


@lru_cache(maxsize=_KEPT)
def _sandboxed(name: str, value: str, paths: tuple[str, ...]) -> ThirdParty:
    """One for all graphs of a schedule: its process costs a third of a second."""
    from flexplan.sandbox.remote import Sandboxed  # subprocess and pipes: only for those who need them

    return Sandboxed(name)
