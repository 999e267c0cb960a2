"""Signals: Ctrl-C, SIGTERM and SIGHUP (a terminal that closes) end the program quietly, from first line to last.

The exit codes are 130, 143 and 129, as a shell has them.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # until this file is read nobody listens: it imports next to nothing
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_HEARD = {  # with what they do in a program that nobody has told otherwise: what nohup ignores stays ignored
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}
_came = 0  # the first signal that was heard
_asked = 0  # one that asked a job to stop, which it does by itself
_at_work = _deferred = _stoppable = _in_pass = _said = False


def is_program() -> bool:
    """Is this process the command line, not a program that uses the library?"""
    return bool(getattr(sys, "argv", [])) and sys.argv[0].rpartition("/")[2] == "flexplan"


def listen() -> None:
    """Hear all, unless whoever started the program wants one ignored."""
    for number, usual in _HEARD.items():
        if signal.getsignal(number) is usual:
            signal.signal(number, _on_signal)


def say_once() -> bool:
    """Has nobody said yet that the program was interrupted?  Whoever asks says it."""
    global _said
    before, _said = _said, True
    return not before


def came() -> bool:
    """Has one come?  Libraries swallow the exception while they are imported, or raise another in its place."""
    return bool(_came)


def check() -> None:
    """Raise KeyboardInterrupt where one came and was swallowed."""
    if _came or (_asked and not _in_pass):
        raise KeyboardInterrupt


class Stoppable:
    """A job that can be gone on with: the first signal asks it to stop, a second ends it at once.

    Until its first pass that is a KeyboardInterrupt; from `stop_after_pass` on the job looks at that itself.
    """

    def __enter__(self) -> None:
        global _stoppable, _in_pass, _asked
        _stoppable, _in_pass, _asked = True, False, 0

    def __exit__(self, *error: object) -> None:
        global _stoppable
        _stoppable = False


def stop_after_pass() -> bool:
    """Passes are at work now; has a signal asked for an end after the one in flight?"""
    global _in_pass
    if _asked and not _in_pass:
        raise KeyboardInterrupt
    _in_pass = True
    return bool(_asked)


def stop_asked() -> int:
    """The signal that asked a job to stop, 0 where none did or a second one came."""
    return 0 if _came else _asked


def in_pass() -> bool:
    """Has the job made a pass?"""
    return _in_pass


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
        if say_once():
            _say()
    finally:
        _at_work = False
        if _came:  # what a library made of the exception may have ended the program without a word
            if say_once():
                _say()
            sys.exit(128 + _came)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _came, _asked
    if number == signal.SIGHUP and (_asked or _came):  # the terminal and its shell, or systemd behind a SIGTERM:
        return  # one end is meant
    first = not (_asked or _came)
    if first and _stoppable:
        _asked = number
        if _in_pass:
            _say(b"stopping after this pass; once more ends at once\n")
            return
    else:
        _came = _came or number
    sys.unraisablehook = lambda _: None  # in a finaliser the exception is only printed
    if _at_work and _deferred and first:
        return
    if _at_work and not _deferred:
        raise KeyboardInterrupt
    _say()
    os._exit(128 + number)  # nothing is open yet, or everything is closed


def _say(what: bytes = b"interrupted\n") -> None:
    try:
        os.write(2, what)
    except OSError:
        return  # nobody listens
