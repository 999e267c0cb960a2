"""One call at a time in an environment: calls of other threads wait their turn; one from inside a call is refused.

A run has its memory, its device streams and its rows to itself.  Two at once would give wrong tokens, and a call from
within (a progress callback, a signal handler) would wait for itself for ever.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flexplan.errors import UsageError


class Turn:
    """Whose turn it is among the calls of one environment."""

    def __init__(self) -> None:
        # reentrant, so that a signal handler's call finds out that it is inside of another instead of waiting for it
        self._lock = threading.RLock()
        self._taken = False
        self._end: Callable[[], None] | None = None
        self._process = os.getpid()

    @contextmanager
    def taken(self, what: str, end: Callable[[], None] | None = None) -> Iterator[None]:
        """Wait for the turn, and have it for the ``with`` block; ``end`` ends it before, where its thread may."""
        self.refuse_other_process(what)
        with self._lock:
            if self._taken:
                raise UsageError(
                    "FP145",
                    f"{what} was called from inside a call that has not returned, as by its progress callback or a "
                    "signal handler",
                    fix="call it when the other has returned, or from another thread, which waits",
                )
            self._taken, self._end = True, end
            try:
                yield
            finally:
                self._taken, self._end = False, None

    def end_held(self) -> None:
        """End the call of this thread that somebody holds unfinished, whosever it is."""
        if (end := self._end) is not None:
            end()

    @property
    def elsewhere(self) -> bool:
        """True in a forked child: files, threads and device are the parent's."""
        return os.getpid() != self._process

    def refuse_other_process(self, what: str) -> None:
        """Raise UsageError in a forked child."""
        if self.elsewhere:
            raise UsageError(
                "FP146",
                f"{what} was called in process {os.getpid()}, a fork of {self._process}, whose environment this is",
                fix="create the ExecutionEnv and open the model in the process that uses them",
            )
