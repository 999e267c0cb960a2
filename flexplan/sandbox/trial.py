"""A check run in a forked process: a verdict comes back, whatever the code under test does.

A fork, where a plug-in runs in a fresh process: what a test has made comes along.  It is not for the command line:
locks of other threads stay taken for ever.
"""

from __future__ import annotations

import json
import os
import select
import signal
import stat
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from flexplan.sandbox.process import end_all
from flexplan.sandbox.supervisor import TWICE, supervise, write_answer

_PATIENCE_S = 0.5  # for what ends by itself
_GRACE_S = 5.0  # to end what was started
_MOST_BYTES = 1 << 20  # of a verdict
_MOST_WORDS = 4000

Check = Callable[[], object]


def trial(check: Check, seconds: float) -> str | None:
    """Why a check fails, None where it passes: it raises, ends its process, takes too long or leaves something running.

    Whatever it started is ended.
    """
    verdicts, verdict_end = os.pipe()
    lifeline, lifeline_end = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of forks beside threads
        supervisor = os.fork()
    if not supervisor:
        os.close(verdicts)
        os.close(lifeline_end)
        _supervise(check, lifeline, verdict_end)
    os.close(verdict_end)
    os.close(lifeline)
    try:
        written = _read(verdicts, time.monotonic() + seconds)
    finally:
        os.close(lifeline_end)
        os.close(verdicts)
        _reap(supervisor)
    return f"it has not ended within {seconds:g} s" if written is None else _verdict(written)


def _supervise(check: Check, lifeline: int, verdicts: int) -> None:
    """In the forked process: the check's own verdict, then what its supervisor saw."""
    try:
        os.setsid()  # a signal to the group of the worker must not reach the test's
        _let_go(lifeline, verdicts)
        found = supervise(lambda: _judge(check, verdicts), lifeline, (), _PATIENCE_S)
        write_answer(verdicts, _line({"exit_code": found.exit_code, "left": found.left}))
    finally:
        os._exit(0)


def _let_go(*kept: int) -> None:
    """Leave nothing of the test's to write to, but the standard streams: its runner may talk through a pipe."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in [int(name) for name in os.listdir("/proc/self/fd")]:  # noqa: PTH208
        with suppress(OSError):
            mode = os.fstat(descriptor).st_mode
            if descriptor > 2 and descriptor not in kept and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
                os.dup2(nowhere, descriptor)


def _judge(check: Check, verdicts: int) -> None:
    """In the worker: run the check and say how it went; a copy that comes back as well only ends."""
    me, before = os.getpid(), set(threading.enumerate())
    try:
        check()
        end_all()  # what is ours does not count
        why = None
    except BaseException as error:
        why = f"{error!r:.{_MOST_WORDS}}\n{traceback.format_exc()[-_MOST_WORDS:]}"
    if os.getpid() != me:
        os._exit(TWICE)
    if why is None and _threads_since(before):
        why = "it leaves a thread running that no program ends before"
    write_answer(verdicts, _line({"why": why}))


def _threads_since(before: set[threading.Thread]) -> bool:
    deadline_s, found = time.monotonic() + _PATIENCE_S, [t for t in threading.enumerate() if t not in before]
    for thread in found:
        if not thread.daemon:
            thread.join(max(0.0, deadline_s - time.monotonic()))
    return any(thread.is_alive() and not thread.daemon for thread in found)


def _line(verdict: dict[str, Any]) -> bytes:
    return json.dumps(verdict).encode() + b"\n"


def _read(verdicts: int, deadline_s: float) -> bytes | None:
    """All that is written until both have ended, or more than any verdict; None where the deadline came first."""
    found = b""
    while len(found) <= _MOST_BYTES:
        if not select.select([verdicts], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
            return None
        more = os.read(verdicts, 1 << 16)
        found += more
        if not more:
            break
    return found


def _verdict(written: bytes) -> str | None:
    try:
        *own, ended = map(json.loads, written.splitlines())
        left, exit_code = ended["left"], ended["exit_code"]
        if not own:
            return f"it ended its process with exit code {exit_code}"
        (verdict,) = own
        why: str | None = verdict["why"]
    except (KeyError, RecursionError, TypeError, ValueError):
        return f"it writes where nobody asked it to, or kills what it should not: {written[:80]!r}"
    return why or (f"it leaves {left} processes running, or comes back from a fork twice" if left else None)


def _reap(supervisor: int) -> None:
    deadline_s = time.monotonic() + _GRACE_S
    while not os.waitpid(supervisor, os.WNOHANG)[0]:
        if time.monotonic() > deadline_s:
            with suppress(ProcessLookupError):
                os.killpg(supervisor, signal.SIGKILL)
            os.waitpid(supervisor, 0)
            return
        time.sleep(0.001)
