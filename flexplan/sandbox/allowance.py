"""The seconds that code of another package has, and who is to blame for what goes wrong meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from flexplan.errors import FlexplanError, GraphError, InfeasiblePlan, PluginError

TIMEOUT_S = 60.0  # of a planner's answer, or of a schedule's graphs
_TASK_S = 1e-3  # that each task of a graph adds: a long run asks for millions of them

REPORT = "report it to its author"


class Allowance:
    """Seconds to wait for a stranger: so many, and a millisecond for each task that it delivers."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.left_s = seconds

    @contextmanager
    def spent(self) -> Iterator[None]:
        """Count the seconds within."""
        began_s = time.monotonic()
        try:
            yield
        finally:
            self.left_s -= time.monotonic() - began_s

    def earn(self, num_tasks: int) -> None:
        """Add what these tasks are worth."""
        self.left_s += num_tasks * _TASK_S


_shared: ContextVar[Allowance | None] = ContextVar("allowance", default=None)


def allowance() -> Allowance:
    """What all graphs of a call of `solve` share; elsewhere each graph has its own."""
    return _shared.get() or Allowance(TIMEOUT_S)


@contextmanager
def answerable(name: str | None, timeout_s: float | None = None) -> Iterator[None]:
    """While a third-party schedule's graphs are placed, predicted and checked: all errors of that are its doing.

    Raises PluginError with its name; what does not fit, and what the schedule is already blamed for, stays as it is.
    A ``name`` of None is nobody's, and changes nothing.  With ``timeout_s`` all its graphs together have so long.
    """
    if name is None:
        yield
        return
    token = None if timeout_s is None else _shared.set(Allowance(timeout_s))
    try:
        with blamed_for_graph(name):
            yield
    except FlexplanError:
        raise
    except Exception as error:  # a graph may lack what a prediction looks for
        raise _refused(name, repr(error)) from error
    finally:
        if token is not None:
            _shared.reset(token)


@contextmanager
def blamed_for_graph(name: str | None) -> Iterator[None]:
    """What the checker, or the runtime, says of a third-party graph is said with its schedule's name: a PluginError."""
    try:
        yield
    except GraphError as error:
        if name is None:
            raise
        raise _refused(name, error.message) from error
    except InfeasiblePlan as error:
        if name is None or error.code != "FP402":  # its policy fits, its graph does not
            raise
        raise _refused(name, error.message) from error


def _refused(name: str, why: str) -> PluginError:
    return PluginError("FP910", f"schedule {name} made a graph that does not hold up: {why:.2000}", fix=REPORT)
