"""Largest remainder: whole grains to tiers so that the running shares stay as asked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


class Apportionment:
    """Hands out grains to tiers; what rounding took from a tier is carried to the next call.

    Grains of one call are of one ``size``; the error of a tier's total stays below one grain of the largest.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        self.shares = tuple(shares)
        self.owed = [0.0] * len(self.shares)

    def take(self, grains: int, size: float = 1) -> tuple[int, ...]:
        """Whole grains of this size for each tier, summing to ``grains``.

        >>> Apportionment((0.5, 0.3, 0.2)).take(10)
        (5, 3, 2)
        """
        due = [owed / size + share * grains for owed, share in zip(self.owed, self.shares, strict=True)]
        given = [max(0, int(d + 1e-9)) if share else 0 for d, share in zip(due, self.shares, strict=True)]
        while sum(given) > grains:  # a tier that was owed more than this call hands out
            given[max(range(len(given)), key=lambda t: given[t])] -= 1
        while sum(given) < grains:
            sharing = [t for t, share in enumerate(self.shares) if share]
            given[max(sharing, key=lambda t: (due[t] - given[t], -t))] += 1
        self.owed = [(d - g) * size for d, g in zip(due, given, strict=True)]
        return tuple(given)


def cut(size: int, shares: Sequence[float], grain: int = 1) -> tuple[int, ...]:
    """``size`` split in the given shares at multiples of ``grain``; the last tier with a share takes the rest.

    >>> cut(100, (0.2, 0.8, 0.0), 8)
    (24, 76, 0)
    """
    bounds, total = [0], 0.0
    last = max(t for t, share in enumerate(shares) if share)
    for tier, share in enumerate(shares):
        total += share
        bounds.append(size if tier >= last else min(size, int(total * size / grain + 0.5) * grain))
    return tuple(high - low for low, high in pairwise(bounds))
