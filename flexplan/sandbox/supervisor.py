"""The supervisor: a process between the starter and the stranger's code, which ends all that the code started.

The code runs in a child of it, the worker, only.  The worker's orphans become children of the supervisor, however they
left; it ends them when the worker has ended, when its own starter is gone, or when it is told to.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

MOST_MEMORY_BYTES = 4 << 30  # that a process of the stranger's may add to what it began with
TWICE = 77  # the exit code of a copy of the worker, which forked and came back a second time

_PARENT_DEATH, _SUBREAPER = 1, 36  # of prctl
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_POLL_S = 0.01

Work = Callable[[], Any]


class Outcome(NamedTuple):
    """How the worker ended, and how many processes it left running, or came back from as well."""

    exit_code: int
    left: int


def main(work: Callable[[int, int], None]) -> NoReturn:
    """Supervise the work of this program, whose arguments are the pipes of its requests and its answers.

    Standard input stays open as long as its starter lives.
    """
    requests, answers = map(int, sys.argv[1:3])
    found = supervise(lambda: work(requests, answers), 0, (requests, answers))
    os._exit(found.exit_code if found.exit_code >= 0 else 128 - found.exit_code)


def supervise(work: Work, lifeline: int, pipes: tuple[int, ...], patience_s: float = 0.0) -> Outcome:
    """Do the work in a child, and end with it all that it started; what ends within ``patience_s`` is not left.

    ``lifeline`` is a pipe that ends with the starter.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SUBREAPER, 1, 0, 0, 0)
    starter, told = os.getppid(), list[int]()
    for number in _SIGNALS:
        signal.signal(number, lambda n, _: told.append(n))
    # it comes when the starting thread ends, too: only without the starter it says anything
    signal.signal(signal.SIGUSR1, lambda n, _: None if os.getppid() == starter else told.append(n))
    libc.prctl(_PARENT_DEATH, signal.SIGUSR1, 0, 0, 0)  # where a copy of the pipe outlives the starter
    signal.signal(signal.SIGCHLD, lambda n, _: None)
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    worker = os.fork()
    if not worker:
        signal.set_wakeup_fd(-1)
        libc.prctl(_PARENT_DEATH, signal.SIGKILL, 0, 0, 0)
        for pipe in (woken, wakes, lifeline):
            os.close(pipe)
        _let_loose(work)
    for pipe in pipes:
        os.close(pipe)
    status = _wait(worker, lifeline, woken, told)
    left = 0 if status is None else _left(patience_s)
    _end_children()
    return Outcome(128 + signal.SIGTERM if status is None else os.waitstatus_to_exitcode(status), left)


def _wait(worker: int, lifeline: int, woken: int, told: list[int]) -> int | None:
    """The worker's status; None where the starter is gone, or says stop."""
    while True:
        pid, status = os.waitpid(worker, os.WNOHANG)
        if pid:
            return status
        if told:
            return None
        ready, _, _ = select.select([lifeline, woken], [], [])
        if lifeline in ready:
            return None
        with suppress(BlockingIOError):
            os.read(woken, 1 << 10)


def _let_loose(work: Work) -> NoReturn:
    """Make the worker what a stranger may be let loose in, and do the work."""
    try:
        _begin()
        work()
        os._exit(0)  # without waiting for threads that were left behind
    finally:
        os._exit(1)  # whatever was raised: this copy of the program must not go on


def _begin() -> None:
    for number in (*_SIGNALS, signal.SIGCHLD, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, this process is to go first
    with suppress(OSError, ValueError):
        most = _data_bytes() + MOST_MEMORY_BYTES
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)  # what it prints is nobody's answer


def _data_bytes() -> int:
    """What this process may write to by now: of a process that was forked, what its parent had."""
    pages = Path("/proc/self/statm").read_text().split()[5]
    return int(pages) * resource.getpagesize()


def _left(patience_s: float) -> int:
    """Processes that outlive the worker and ``patience_s``, and copies of it that have ended."""
    copies, deadline_s = 0, time.monotonic() + patience_s
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return copies
        copies += bool(pid) and os.waitstatus_to_exitcode(status) == TWICE
        if not pid and time.monotonic() >= deadline_s:
            return copies + len(_children())
        if not pid:
            time.sleep(_POLL_S)


def _end_children() -> None:
    """Kill until nothing is left: the children of what is killed come here."""
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        children = _children()
        if not children:
            return
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def _children() -> list[int]:
    """The processes whose parent this is."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text(errors="replace").rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(stat.parent.name))
    return found


# -- in the worker -----------------------------------------------------------------------------------------------
def read_request(pipe: int) -> bytes | None:
    """The next request: its length in digits, a line feed, and so many bytes; None where no more will come."""
    digits = b""
    while not digits.endswith(b"\n"):
        more = os.read(pipe, 1)
        if not more:
            return None
        digits += more
    text = b""
    while len(text) < int(digits):
        more = os.read(pipe, int(digits) - len(text))
        if not more:
            return None
        text += more
    return text


def write_answer(pipe: int, answer: bytes) -> None:
    """All of it, whatever the pipe takes at a time."""
    unsent = memoryview(answer)
    while unsent:
        unsent = unsent[os.write(pipe, unsent) :]
