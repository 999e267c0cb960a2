"""A process for code of another package, as its starter sees it.

Only a process stops a loop in compiled code, an endless allocation or a fork; a fresh one shares no locks with this
one.  To start it costs a third of a second.
"""

from __future__ import annotations

import os
import secrets
import selectors
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_GRACE_S = 5.0  # to end what was started
_LAST_WORDS_S = 1.0
_CHUNK = 1 << 16
_MARK = "FLEXPLAN_SANDBOX"  # in the environment of all that a process starts

_started: weakref.WeakSet[Process] = weakref.WeakSet()


class Process:
    """A module of ours in a process of its own, in which a stranger's code is let loose; see `supervisor`.

    It is ended with all that it started when this object goes, or this program.
    """

    def __init__(self, module: str) -> None:
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        mark = f"{os.getpid()}-{secrets.token_hex(8)}"
        paths = os.pathsep.join(path or "." for path in sys.path)
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(requests), str(answers)],
                stdin=subprocess.PIPE,  # stays open: where it ends, this process has, and what was started ends itself
                stdout=subprocess.DEVNULL,
                bufsize=0,
                env=os.environ | {"PYTHONPATH": paths, _MARK: mark},
                pass_fds=(requests, answers),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._requests)
            os.close(self._answers)
            raise
        finally:
            os.close(requests)
            os.close(answers)
        os.set_blocking(self._requests, False)
        _started.add(self)
        self._starter = os.getpid()
        self._ending = weakref.finalize(self, _end, self._child, self._starter, mark, self._requests, self._answers)

    @property
    def exit_code(self) -> int | None:
        """Of what has ended."""
        return self._child.returncode

    @property
    def is_ours(self) -> bool:
        """Did this very process start it?  A forked copy of the starter must leave it alone."""
        return self._starter == os.getpid() and self._ending.alive

    def ask(
        self, request: bytes, seconds: float, most_bytes: int, is_whole: Callable[[bytearray], bool]
    ) -> bytearray | None:
        """The answer to a request: until it is whole, ends, or is longer than allowed; None where time is up."""
        deadline_s = time.monotonic() + seconds
        unsent = memoryview(b"%d\n%s" % (len(request), request))
        found = bytearray()
        with selectors.DefaultSelector() as ready:
            ready.register(self._requests, selectors.EVENT_WRITE)
            ready.register(self._answers, selectors.EVENT_READ)
            while len(found) <= most_bytes:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    return None
                for key, _ in ready.select(left_s):
                    if key.fileobj == self._requests:
                        unsent = unsent[_sent(self._requests, unsent) :]
                        if not unsent:
                            ready.unregister(self._requests)
                        continue
                    more = os.read(self._answers, _CHUNK)
                    found += more
                    if not more:
                        with suppress(subprocess.TimeoutExpired):
                            self._child.wait(_LAST_WORDS_S)  # its exit code says how it ended
                    if not more or is_whole(found):
                        return found
        return found

    def end(self) -> None:
        """End it and all that it started: what it left running would go on for nobody."""
        self._ending()


def end_all() -> None:
    """End the processes that this one has started."""
    for process in list(_started):
        if process.is_ours:
            process.end()


def _sent(descriptor: int, unsent: memoryview) -> int:
    try:
        return os.write(descriptor, unsent)
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        return len(unsent)  # it has ended: its exit code says why


def _end(child: subprocess.Popen[bytes], starter: int, mark: str, *pipes: int) -> None:
    if os.getpid() != starter:
        return
    assert child.stdin
    child.stdin.close()
    for pipe in pipes:
        os.close(pipe)
    try:
        child.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    if child.returncode < 0:  # the supervisor was killed, and has ended nothing
        while _kill_marked(f"{_MARK}={mark}".encode()):
            time.sleep(0.01)


def _kill_marked(mark: bytes) -> int:
    """Kill all processes whose environment has a mark; how many there were."""
    found = 0
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in environ.read_bytes().split(b"\0"):
                os.kill(int(environ.parent.name), signal.SIGKILL)
                found += 1
    return found
