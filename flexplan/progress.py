"""Progress on standard error: a bar on a terminal, else a line every few seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from flexplan import signals
from flexplan.units import format_duration

_LINE_EVERY_S = 5.0


class Progress:
    """A listener of a runtime: stages, tokens, tokens a second and the time left."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._began_s = 0.0
        self._next_line_s = 0.0

    def stage(self, what: str) -> None:
        """A new stage."""
        signals.check()
        self._stop()
        if sys.stderr.isatty():
            self._bar = _bar()
            self._task = self._bar.add_task(what, total=None, rate="")
            self._bar.start()
        else:
            print(what, file=sys.stderr)
        self._began_s = time.monotonic()
        self._next_line_s = self._began_s + _LINE_EVERY_S

    def tokens(self, done: int, total: int) -> None:
        """So many tokens of all that may come."""
        signals.check()
        now = time.monotonic()
        rate = done / max(1e-9, now - self._began_s)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, rate=f"{rate:.1f} tokens/s")
        elif now >= self._next_line_s:
            self._next_line_s = now + _LINE_EVERY_S
            left = (total - done) / max(1e-9, rate)
            print(f"{done:,} of {total:,} tokens, {rate:.1f} tokens/s, {format_duration(left)} left", file=sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"))
    return RichProgress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
