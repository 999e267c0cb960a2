"""Standard output is for answers: whatever else a library writes there, in Python or in C, goes to standard error."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, ParamSpec, TextIO, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_answers: TextIO | None = None  # where answers go while a command is at work


def say(text: str) -> None:
    """Print an answer."""
    print(text, file=answers())


def answers() -> TextIO:
    """The stream for answers."""
    return _answers or sys.stdout


def colours() -> Literal["auto"] | None:
    """What a console may use: nothing at all where NO_COLOR is set."""
    return None if os.environ.get("NO_COLOR") else "auto"


def take_descriptor() -> None:
    """For a whole process: what C code writes to descriptor 1 goes to standard error, ``sys.stdout`` where 1 went."""
    if sys.stdout is None or sys.stderr is None:
        return
    sys.stdout.flush()
    was, line_by_line = sys.stdout, 1 if sys.stdout.isatty() else -1
    sys.stdout = os.fdopen(os.dup(1), "w", line_by_line, encoding=was.encoding, errors=was.errors)
    os.dup2(2, 1)


def answering(command: Callable[P, T]) -> Callable[P, T]:
    """A command, during which ``print`` of a library writes to standard error."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with _only_answers():
            return command(*args, **kwargs)

    return run


@contextmanager
def _only_answers() -> Iterator[None]:
    global _answers
    before = _answers, sys.stdout
    _answers, sys.stdout = answers(), sys.stderr
    try:
        yield
    finally:
        _answers, sys.stdout = before
