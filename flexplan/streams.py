"""Standard streams: closed ones are held, a full or broken one is the error that it is, and no log ends a job."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO, cast

from flexplan.answers import answers, take_descriptor
from flexplan.errors import StorageError

READER_GONE = 141  # what a shell reports of a program that a closed pipe ended


def guarded(program: Callable[[], object]) -> None:
    """Run the program; what standard output loses on its way ends it with an error, nobody's standard error does."""
    _hold_closed()
    take_descriptor()
    sys.stdout, sys.stderr = cast(TextIO, _Output(sys.stdout)), cast(TextIO, _Messages(sys.stderr))
    try:
        try:
            program()
        finally:
            sys.stdout.flush()
    except StorageError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


def pour(text: str) -> None:
    """Write an answer as UTF-8, whatever the terminal speaks; raises OSError."""
    stream = answers()
    stream.flush()
    raw = getattr(stream, "buffer", None)
    if raw is None:  # a notebook's
        stream.write(text)
        return
    try:
        raw.write(text.encode())
        raw.flush()
    except OSError:
        _silence(stream)
        raise


class _Stream:
    """A text stream that something is to happen to when it fails."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        if isinstance(stream, io.TextIOWrapper):  # a locale that lacks a letter of a name
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._failed(error)
            return len(text)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        _silence(self._stream)


class _Output(_Stream):
    """Standard output: a reader that has seen enough ends the program quietly, anything else is an error."""

    def _failed(self, error: OSError) -> None:
        super()._failed(error)
        if error.errno == errno.EPIPE:
            sys.exit(READER_GONE)
        why = "it is closed" if error.errno == errno.EBADF else error.strerror
        raise StorageError("FP614", f"standard output cannot be written: {why}", fix="send it elsewhere") from error


class _Messages(_Stream):
    """Standard error: work goes on where nobody listens."""


def _hold_closed() -> None:
    """Give the numbers of closed streams away, before a file that is opened gets one and with it all that is printed.

    The stand-in of standard output refuses to be written, as the closed one would.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # the lowest number that is free
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _silence(stream: TextIO) -> None:
    """What is still buffered goes nowhere, so that the interpreter does not stumble over it at its end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
