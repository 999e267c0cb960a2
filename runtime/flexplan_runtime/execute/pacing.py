"""How the interpreter is shared while lanes run: by the thread that feeds them, and by the garbage collector.

A lane gives the interpreter away with each call of the framework, and asks for it back; from a thread that goes on
and on it gets it after the switch interval, each time anew.  While a sweep of 4,000 tasks was made and the spans of
another were kept, a task of ten calls that takes 0.5 ms took 8.  And a full collection, which goes through every
object of the process, holds all lanes for 50 ms.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from flexplan_runtime.execute.lanes import Token

_SWITCH_S = 2e-4  # a lane that becomes ready should not wait 5 ms for the interpreter
_MOMENT_S = _SWITCH_S / 2
_NEVER = 2**31 - 1  # as many collections of the young that no full one follows
_COLLECT_EVERY_S = 300.0  # in a run that takes hours, what others of the process leave is not kept for ever

_runs = 0
_before = (0.0, 0)  # the switch interval, and after how many collections of the young a full one follows
_lock = threading.RLock()  # a signal handler may begin a run, too


@contextmanager
def undisturbed() -> Iterator[None]:
    """While any run of the process is under way: lanes are given the interpreter soon, and nothing old is collected.

    Collections of the young go on, and after the last run all is as before.  Nothing is made old before its time
    (`gc.freeze` would do that), so what becomes garbage meanwhile is found by the collector's own rules afterwards.
    """
    _begin()
    try:
        yield
    finally:
        _end()


def _begin() -> None:
    global _runs, _before
    with _lock:
        if _runs == 0:
            youngest, young, old = gc.get_threshold()
            _before = sys.getswitchinterval(), old
            sys.setswitchinterval(_SWITCH_S)
            gc.set_threshold(youngest, young, _NEVER)
        _runs += 1


def _end() -> None:
    global _runs
    with _lock:
        _runs -= 1
        if _runs == 0:
            patience_s, usual = _before
            youngest, young, old = gc.get_threshold()
            sys.setswitchinterval(patience_s)
            if old == _NEVER:  # nobody has set it meanwhile
                gc.set_threshold(youngest, young, usual)


class Rests:
    """A thread that works for a moment and rests for one, as long as the lanes have enough to do without it."""

    def __init__(self) -> None:
        self._since_s = self._collected_s = time.perf_counter()

    def rest(self, queued: Sequence[Token]) -> None:
        """Where it is due; ``queued`` is the sweep that the lanes are at, of which half must be left to begin."""
        if queued and time.perf_counter() - self._since_s > _MOMENT_S and not queued[len(queued) // 2].issued.is_set():
            time.sleep(_MOMENT_S)
            self._since_s = time.perf_counter()

    def collect(self) -> None:
        """A full collection where a run has gone without for minutes, if the process has any at all."""
        if time.perf_counter() - self._collected_s > _COLLECT_EVERY_S and gc.isenabled():
            gc.collect()
            self._collected_s = time.perf_counter()
