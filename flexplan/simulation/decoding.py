"""Decoding: the seconds of all passes from a few that are simulated, and from what every pass takes at the least.

A lane's work grows evenly with the token, save where a window is full, so the least that a pass takes bends only there
and where another lane or resource becomes the busiest.  What a pass waits beyond that is smooth: it is simulated at
both ends, at the bends and half-way behind them, or in the middle alone where one is the busiest all the way and the
lanes together hardly grow: no chain of tasks grows by more than all lanes do.  It is seconds that are drawn between
those, not shares: what is waited for does not grow with the token::

    seconds(i)  =  least(i) + waits(i),    least(i)  =  max over lanes and resources of the seconds of its tasks
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise

from flexplan.graph import LANES

Busy = Mapping[str, float]  # seconds of every lane and resource in one pass

_SAMPLES = 128  # passes that stand for all of a longer output
_AS_BUSY = 0.005  # lanes this close are as busy as each other
_GROWS = 0.08  # of a pass: where chains grow less, the middle is within a hundredth of the mean


def knots(last: int, least: Mapping[int, Busy]) -> list[int]:
    """Of the passes 1 .. last, those to simulate; ``least`` is what the first, some and the last take of each lane.

    >>> knots(101, {1: {"gpu": 2.0, "cpu": 1.0}, 101: {"gpu": 2.0, "cpu": 3.0}})
    [1, 52, 76, 101]
    >>> knots(101, {1: {"gpu": 2.0, "cpu": 1.0}, 101: {"gpu": 3.0, "cpu": 1.0}})
    [1, 51, 76, 101]
    >>> knots(101, {1: {"gpu": 2.0, "cpu": 1.0}, 101: {"gpu": 2.1, "cpu": 1.0}})
    [51]
    >>> knots(101, {1: {"cpu": 1.0}, 31: {"cpu": 2.0}, 101: {"cpu": 2.0}})
    [1, 31, 101]
    >>> knots(101, {1: {"gpu": 2.0, "cpu": 1.0}, 101: {"gpu": 2.0, "cpu": 1.9}})
    [1, 51, 76, 101]
    """
    if len(least) > 2:
        return sorted(least)
    bends, busiest = list[int](), ""
    for i in _samples(last):
        busy = _at(i, least)
        leader = max(busy, key=lambda name: busy[name])
        if not busiest or busy[leader] > (1 + _AS_BUSY) * busy[busiest]:
            bends += [i] if busiest else []
            busiest = leader
    middle = (last + 1) // 2
    if not bends and _growth(last, least) < _GROWS * _least(middle, least):
        return [middle]
    bends = bends or [middle]
    return sorted({1, bends[0], bends[-1], (bends[-1] + last) // 2, last})


def _growth(last: int, least: Mapping[int, Busy]) -> float:
    """Seconds by which the lanes grow from the first pass to the last, one after the other."""
    first, end = _at(1, least), _at(last, least)
    return sum(max(0.0, seconds - first[lane]) for lane, seconds in end.items() if lane in LANES)


def decode_seconds(last: int, least: Mapping[int, Busy], simulated: Mapping[int, float]) -> float:
    """Seconds of the passes 1 .. last, some of which are simulated.

    Many passes take no less than the least of each, though one of two by themselves may: what the first leaves for
    later is done beside the second, and nothing is left to it by another.

    >>> flat = {"gpu": 1.0, "cpu": 0.5}
    >>> decode_seconds(9, {1: flat, 9: flat}, {5: 1.25})
    11.25
    """
    waits = {i: max(0.0, seconds - _least(i, least)) for i, seconds in simulated.items()}
    samples = _samples(last)
    return last / len(samples) * sum(_least(i, least) + _between(i, waits) for i in samples)


def stands_for(last: int, at: Sequence[int]) -> dict[int, float]:
    """How many of the passes 1 .. last each of some is nearest to.

    >>> stands_for(101, [1, 51, 101])
    {1: 25.5, 51: 50.0, 101: 25.5}
    """
    edges = [0.5, *((a + b) / 2 for a, b in pairwise(at)), last + 0.5]
    return {i: edges[n + 1] - edges[n] for n, i in enumerate(at)}


def _samples(last: int) -> list[int]:
    count = min(last, _SAMPLES)
    return [1 + (2 * n + 1) * last // (2 * count) for n in range(count)] if count < last else list(range(1, last + 1))


def _at(i: int, least: Mapping[int, Busy]) -> dict[str, float]:
    """Every lane of pass i, along straight lines between the passes that are known."""
    known = sorted(least)
    above = min(max(1, bisect_right(known, i)), len(known) - 1)
    low, high = known[above - 1], known[above]
    part, ends = (i - low) / max(1, high - low), (least[low], least[high])
    return {
        name: (1 - part) * ends[0].get(name, 0.0) + part * ends[1].get(name, 0.0) for name in {**ends[0], **ends[1]}
    }


def _least(i: int, least: Mapping[int, Busy]) -> float:
    return max(_at(i, least).values())


def _between(i: int, values: Mapping[int, float]) -> float:
    """Along straight lines between what is known, and level outside."""
    known = list(values)
    above = bisect_right(known, i)
    if above in (0, len(known)):
        return values[known[max(0, above - 1)]]
    low, high = known[above - 1], known[above]
    part = (i - low) / (high - low)
    return (1 - part) * values[low] + part * values[high]
