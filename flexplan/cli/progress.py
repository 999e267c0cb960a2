"""What is said on standard error beside errors and warnings: notes, and progress.

On a terminal progress is a bar; in a log, and where ``NO_COLOR`` is set, a line after some seconds and then one
a minute.  ``--quiet`` leaves all of it out; ``--verbose`` adds a line every few seconds, and what each stage took.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any

from flexplan import signals
from flexplan.errors import visible
from flexplan.report.answers import colours
from flexplan.units import format_duration

if TYPE_CHECKING:
    from rich.console import Console

    from flexplan.job import Pace, Standing

_FIRST_LINE_S = 5.0
_LINE_EVERY_S = 60.0
_LATELY_S = 30.0  # what is fast now
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
    if _may_move():
        return _console().status(what)
    if _loudness == _VERBOSE:
        note(what)
    return nullcontext()


class Progress:
    """A listener of a runtime: stages, requests and tokens, tokens a second and the time left."""

    def __init__(self, pace: Pace | None = None, num_requests: int = 0) -> None:
        self.pace = pace
        self.num_requests, self.num_ended = num_requests, 0
        self._now: Standing | None = None
        self._lately: deque[tuple[float, int]] = deque()  # moments, and the tokens that there were
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
        if _may_move() and _loudness > _QUIET:
            self._bar = _bar()
            self._task = self._bar.add_task(what, total=None, says="")
            self._bar.start()
        else:
            note(what)
        self._began_s = time.monotonic()
        self._now = None
        self._lately.clear()
        self._next_line_s = self._began_s + _FIRST_LINE_S

    def standing(self, now: Standing) -> None:
        """How far the run is, before its tokens are told."""
        self._now = now

    def tokens(self, done: int, total: int) -> None:
        """So many tokens of all that may come."""
        signals.check()
        now = time.monotonic()
        if self._now is not None:
            self._remember(now, self._now.tokens)
        if self._bar is not None:
            self._bar.update(
                self._task, completed=done, total=total, says=f": {self._says(now, done, total, short=True)}"
            )
        elif now >= self._next_line_s:
            self._next_line_s = now + (_FIRST_LINE_S if _loudness == _VERBOSE else _LINE_EVERY_S)
            note(self._says(now, done, total))

    def _remember(self, now: float, tokens: int) -> None:
        """What there was at the beginning of the last while, and at about each second since."""
        if not self._lately or now - self._lately[-1][0] >= 1:
            self._lately.append((now, tokens))
        while len(self._lately) > 1 and self._lately[1][0] <= now - _LATELY_S:
            self._lately.popleft()

    def _says(self, now: float, done: int, total: int, *, short: bool = False) -> str:
        """How far it is; in short what a terminal's line has room for, the most important first."""
        since_s = max(1e-9, now - self._began_s)
        ended = f"{self.num_ended:,} of {self.num_requests:,} requests, " if self.num_requests else ""
        if self._now is None:  # of a run on other machines, only what has ended is known
            rate = done / since_s
            left_s = (total - done) / max(1e-9, rate)
            return f"{ended}{done:,} of {total:,} tokens, {rate:.1f} tokens/s, {format_duration(left_s)} left"
        at = self._now
        then_s, had = self._lately[0]
        lately = (at.tokens - had) / (now - then_s) if now > then_s else at.tokens / since_s
        mean, left = at.tokens / since_s, format_duration(self._left_s(at, total, since_s))
        if short:
            return f"{ended}{lately:.1f} tokens/s ({mean:.1f} mean), {left} left, {at.live:,} of {at.seats:,} rows"
        return (
            f"{ended}{at.tokens:,} tokens, {lately:.1f} tokens/s now, {mean:.1f} in the mean, {left} left; "
            f"{at.live:,} of {at.seats:,} rows live, {100 * at.held / max(1, at.reserved):.0f} % of the cache in use"
        )

    def _left_s(self, at: Standing, total: int, since_s: float) -> float:
        """By the plan, corrected by what its part so far has taken, and by how much of their most answers needed."""
        used = at.tokens / max(1, at.tokens + at.spared)
        expected = at.tokens + max(0, total - at.tokens - at.spared) * used
        from flexplan.job import Pace  # only where a job runs: it takes longer than the rest of the command line

        return (self.pace or Pace([])).left_s(at.tokens / max(1.0, expected), since_s)

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


def _may_move() -> bool:
    """Can what is said be drawn over?  That takes codes, as colours do."""
    return sys.stderr.isatty() and colours() is not None


def _bar() -> Any:
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (SpinnerColumn(), BarColumn(bar_width=12), TextColumn("{task.description}{task.fields[says]}"))
    return RichProgress(*columns, console=_console(), transient=True)


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, color_system=colours())
