"""How the thread that feeds the lanes shares the interpreter with them.

A lane gives the interpreter away with each call of the framework, and asks for it back; from a thread that goes on
and on it gets it after the switch interval, each time anew.  While a sweep of 4,000 tasks was made and the spans of
another were kept, a task of ten calls that takes 0.5 ms took 8.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from flexplan_runtime.execute.lanes import Token

_MOMENT_S = 1e-4  # half the executor's switch interval


class Pace:
    """A thread that works for a moment and rests for one, as long as the lanes have enough to do without it."""

    def __init__(self) -> None:
        self._since_s = time.perf_counter()

    def rest(self, queued: Sequence[Token]) -> None:
        """Where it is due; ``queued`` is the sweep that the lanes are at, of which half must be left to begin."""
        if queued and time.perf_counter() - self._since_s > _MOMENT_S and not queued[len(queued) // 2].issued.is_set():
            time.sleep(_MOMENT_S)
            self._since_s = time.perf_counter()
