"""What is said on standard error beside errors and warnings: notes, and progress.

On a terminal progress is a bar, in a log a line after some seconds and then one a minute.  ``--quiet`` leaves all of it
out; ``--verbose`` adds a line every few seconds, and what each stage took.
"""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any

from flexplan import signals
from flexplan.errors import visible
from flexplan.report.answers import colours
from flexplan.units import format_duration

if TYPE_CHECKING:
    from rich.console import Console

_FIRST_LINE_S = 5.0
_LINE_EVERY_S = 60.0
_QUIET, _USUAL, _VERBOSE = -1, 0, 1
_loudness = _USUAL


def be(*, quiet: bool, verbose: bool) -> None:
    """How much is said by this command."""
    global _loudness
    _loudness = _QUIET if quiet else _VERBOSE if verbose else _USUAL


def note(text: str) -> None:
    """Say something that is neither an error nor an answer."""
    if _loudness > _QUIET:
        print(visible(text), file=sys.stderr)


def busy(what: str) -> AbstractContextManager[object]:
    """A spinner on a terminal; with ``--verbose`` a line."""
    if _loudness == _QUIET:
        return nullcontext()
    if sys.stderr.isatty():
        return _console().status(what)
    if _loudness == _VERBOSE:
        note(what)
    return nullcontext()


class Progress:
    """A listener of a runtime: stages, tokens, tokens a second and the time left."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._stage = ""
        self._began_s = 0.0
        self._next_line_s = 0.0

    def stage(self, what: str) -> None:
        """A new stage."""
        signals.check()
        self._stop()
        self._stage = what
        if sys.stderr.isatty() and _loudness > _QUIET:
            self._bar = _bar()
            self._task = self._bar.add_task(what, total=None, rate="")
            self._bar.start()
        else:
            note(what)
        self._began_s = time.monotonic()
        self._next_line_s = self._began_s + _FIRST_LINE_S

    def tokens(self, done: int, total: int) -> None:
        """So many tokens of all that may come."""
        signals.check()
        now = time.monotonic()
        rate = done / max(1e-9, now - self._began_s)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, rate=f"{rate:.1f} tokens/s")
        elif now >= self._next_line_s:
            self._next_line_s = now + (_FIRST_LINE_S if _loudness == _VERBOSE else _LINE_EVERY_S)
            left = (total - done) / max(1e-9, rate)
            note(f"{done:,} of {total:,} tokens, {rate:.1f} tokens/s, {format_duration(left)} left")

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._stage and _loudness == _VERBOSE:
            note(f"{self._stage} took {format_duration(time.monotonic() - self._began_s)}")
        self._stage = ""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _bar() -> Any:
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"))
    return RichProgress(*columns, TimeRemainingColumn(), console=_console(), transient=True)


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, color_system=colours())
