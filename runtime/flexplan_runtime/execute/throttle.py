"""Throttle: makes this machine as slow as another one, so that schedules can be tried without its hardware."""

from __future__ import annotations

import threading
import time

from flexplan.cost import Rates
from flexplan.graph import Task, natural_lane


class Throttle:
    """Holds every task until the resources it needs would have served it."""

    def __init__(self, rates: Rates) -> None:
        self.rates = rates
        self._free: dict[str, float] = {}
        self._lock = threading.Lock()

    def reserve(self, task: Task) -> float:
        """When the task may end (``time.perf_counter`` seconds): its turn on each resource, first come first served."""
        now = time.perf_counter()
        price = self.rates.price(task.work, natural_lane(task))
        end = now + price.solo_s
        with self._lock:
            for resource, seconds in price.demands:
                free = max(now, self._free.get(resource, 0.0)) + seconds
                self._free[resource] = free
                end = max(end, free)
        return end

    @staticmethod
    def hold(until: float) -> None:
        """Sleep until then."""
        left = until - time.perf_counter()
        if left > 0:
            time.sleep(left)
