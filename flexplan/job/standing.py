"""Standing: how far a run is between two passes, and what its seats held over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Standing(NamedTuple):
    """``tokens`` are new ones of the whole run; ``spared`` those that answers were allowed, but did not need.

    ``live`` of the ``seats`` of the block that is under way decode or come in, and their caches hold ``held`` of the
    ``reserved`` tokens.
    """

    tokens: int
    spared: int
    live: int
    seats: int
    held: int
    reserved: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Shares in percent, in the mean of all passes: of the seats that were taken, of the cache that was in use."""

    seats: int
    seats_percent: float
    cache_percent: float


class UsageMean:
    """Counts passes."""

    def __init__(self) -> None:
        self._passes = self._seats = 0
        self._live = self._held = 0.0

    def add(self, now: Standing) -> None:
        """One more pass."""
        self._passes += 1
        self._seats = max(self._seats, now.seats)
        self._live += now.live / max(1, now.seats)
        self._held += now.held / max(1, now.reserved)

    @property
    def usage(self) -> Usage | None:
        """None before the first pass."""
        if not self._passes:
            return None
        return Usage(self._seats, 100 * self._live / self._passes, 100 * self._held / self._passes)
