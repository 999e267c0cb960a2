"""How a command ends: an error in words people can act on, and its exit code."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from flexplan import signals
from flexplan.cli.exhausted import exhausted, no_bug, refuse_too_little
from flexplan.cli.progress import be
from flexplan.errors import FlexplanError, InfeasiblePlan, InternalError, PluginError, Stopped, UsageError, visible

_INTERRUPTED = 130
QUIET, VERBOSE = ("--quiet", "-q"), ("--verbose", "-v")
_EVERYWHERE = ("--debug", *QUIET, *VERBOSE)


class Commands(TyperGroup):
    """The commands; whatever one of them raises becomes ``error[FPnnn]: ...``, ``fix: ...`` and an exit code.

    ``--debug``, ``--quiet`` and ``--verbose`` may stand before or after the command.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        given = set(args[:end])
        ctx.meta["debug"] = "--debug" in given
        ctx.meta["json"] = "--json" in given
        ctx.meta["quiet"], ctx.meta["verbose"] = (bool(given & set(names)) for names in (QUIET, VERBOSE))
        be(quiet=ctx.meta["quiet"], verbose=ctx.meta["verbose"])
        with _visible_refusals():
            return super().parse_args(ctx, [a for n, a in enumerate(args) if a not in _EVERYWHERE or n > end])

    def invoke(self, ctx: Any) -> Any:
        try:
            with shown_warnings(), _visible_refusals():
                refuse_too_little()
                if ctx.meta["quiet"] and ctx.meta["verbose"]:
                    raise UsageError("FP134", "--quiet and --verbose together", fix="leave one of them out")
                found = super().invoke(ctx)
                sys.stdout.flush()  # what is full is said here, like any error
                return found
        except KeyboardInterrupt:
            _interrupted()
        except FlexplanError as error:
            if signals.came():  # an import that was interrupted fails in ways of its own
                _interrupted()
            raise _ended(_truer(error), ctx.meta) from None
        except Exception as error:
            if signals.came():
                _interrupted()
            if isinstance(error, typer.Exit | typer.Abort | BrokenPipeError) or hasattr(error, "format_message"):
                raise  # typer's own ways to end
            raise _ended(no_bug(error) or _bug(error, ctx.meta), ctx.meta) from None


@contextmanager
def stoppable(go_on: str) -> Iterator[None]:
    """A job that may be gone on with, as ``go_on`` says; raises Stopped for a first signal before its first pass."""
    with signals.Stoppable():
        try:
            yield
        except BaseException:  # what a signal interrupts may fail in ways of its own
            if signals.stop_asked() and not signals.in_pass():
                raise stopped(go_on) from None
            raise


def stopped(go_on: str, state: str = "") -> Stopped:
    """The error of a job that a signal has stopped."""
    name = signal.Signals(signals.stop_asked() or signal.SIGINT).name
    return Stopped("FP1301", f"stopped by {name}", fix=go_on, state=state)


def _interrupted() -> NoReturn:
    if signals.say_once():
        print("interrupted", file=sys.stderr, flush=True)
    raise typer.Exit(_INTERRUPTED) from None


@contextmanager
def _visible_refusals() -> Iterator[None]:
    """A command line that does not parse is repeated by the parser as it was typed."""
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "message"):
            error.message = visible(str(error.message))
        raise


def error_object(error: FlexplanError) -> dict[str, Any]:
    """An error as plain data, for ``--json``."""
    found: dict[str, Any] = {"code": error.code, "message": error.message, "fix": error.fix, "exit": error.exit_code}
    if isinstance(error, InfeasiblePlan):
        found |= {
            "binding": list(error.binding),
            "smallest_budget_bytes": error.smallest_budget_bytes,
            "smallest_together_bytes": error.smallest_together_bytes,
            "block_that_works": error.block_that_works,
        }
    return {"error": found}


@contextmanager
def shown_warnings() -> Iterator[None]:
    """Warnings meant for people as one line each on standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _warn
        yield


def _warn(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    print(visible(f"warning: {message}"), file=sys.stderr)


def _truer(error: FlexplanError) -> FlexplanError:
    """A plug-in is not to blame where the machine is at a limit."""
    return (exhausted(error) if isinstance(error, PluginError) else None) or error


def _bug(error: Exception, meta: dict[str, Any]) -> InternalError:
    what = next(iter(str(error).splitlines()), "")
    return InternalError("FP001", f"{type(error).__name__}: {what}", fix=_report_it(meta))


def _ended(error: FlexplanError, meta: dict[str, Any]) -> typer.Exit:
    """Show an error; the exception that ends the program with its code."""
    if meta["debug"] or os.environ.get("FLEXPLAN_DEBUG"):
        traceback.print_exc()
    print(error, file=sys.stderr)
    if meta["json"]:
        print(json.dumps(error_object(error), indent=2))
    return typer.Exit(error.exit_code)


def _report_it(meta: dict[str, Any]) -> str:
    return "report this bug with what is above" if meta["debug"] else "report this bug; --debug shows where it is"
