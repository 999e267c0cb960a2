"""Signals: Ctrl-C and SIGTERM end the program quietly, with 130 and 143, from its first line to its last."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # until this file is read nobody listens: it imports next to nothing
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_came = 0  # the first signal that was heard
_at_work = _deferred = False


def is_program() -> bool:
    """Is this process the command line, not a program that uses the library?"""
    return bool(getattr(sys, "argv", [])) and sys.argv[0].rpartition("/")[2] == "flexplan"


def listen() -> None:
    """Hear both, unless whoever started the program wants one ignored."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is usual:
            signal.signal(number, _hear)


def came() -> bool:
    """Has one come?  Libraries swallow the exception while they are imported, or raise another in its place."""
    return bool(_came)


def check() -> None:
    """Raise KeyboardInterrupt where one came and was swallowed."""
    if _came:
        raise KeyboardInterrupt


class Deferred:
    """Leaves imports alone, where the exception is swallowed or makes others fail oddly; a second one ends."""

    def __enter__(self) -> None:
        global _deferred
        self.before, _deferred = _deferred, True

    def __exit__(self, *error: object) -> None:
        global _deferred
        _deferred = self.before
        check()


def hearing(program: Callable[[], object]) -> None:
    """Run the program; while it is at work a signal is a KeyboardInterrupt, so that nothing is left behind."""
    global _at_work
    try:
        _at_work = True
        program()
    except KeyboardInterrupt:
        _say()
    finally:
        _at_work = False
        if _came:
            sys.exit(128 + _came)


def _hear(number: int, frame: FrameType | None) -> None:
    global _came
    first, _came = not _came, _came or number
    sys.unraisablehook = lambda _: None  # in a finaliser the exception is only printed
    if _at_work and _deferred and first:
        return
    if _at_work and not _deferred:
        raise KeyboardInterrupt
    _say()
    os._exit(128 + number)  # nothing is open yet, or everything is closed


def _say() -> None:
    try:
        os.write(2, b"interrupted\n")
    except OSError:
        return  # nobody listens
