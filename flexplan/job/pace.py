"""Pace: which part of its time a job has behind it when it has a part of its tokens, as the plan promises it.

Prompts take time and give few tokens, and the last requests of a list share passes with few others; so a part of the
tokens is no such part of the time.  What a run has taken so far, beside what was promised for it, corrects the rest.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

from flexplan.plan import Plan
from flexplan.sandbox import schedule_of
from flexplan.schedule import rolls
from flexplan.simulation import boardings_of

_POINTS = 400
Point = tuple[float, float]  # parts of the tokens and of the time, both from 0 to 1


class Pace:
    """A line from (0, 0) to (1, 1)."""

    def __init__(self, points: list[Point]) -> None:
        self._points = [(0.0, 0.0), *points, (1.0, 1.0)]

    @classmethod
    def of(cls, plan: Plan | None, count: int) -> Pace:
        """That of a plan for so many requests; without a plan, time goes as tokens come."""
        if plan is None:
            return cls([])
        if rolls(schedule_of(plan.schedule)):
            return cls(list(_of_passes(plan)))
        blocks = -(-count // plan.policy.block_size) or 1
        return cls(list(_of_blocks(plan, blocks)) if blocks <= _POINTS else [])

    def promised(self, tokens: float) -> float:
        """The part of the time for a part of the tokens."""
        at = min(len(self._points) - 1, max(1, bisect_right(self._points, (tokens, 2.0))))
        (x0, y0), (x1, y1) = self._points[at - 1], self._points[at]
        return y0 + (y1 - y0) * min(1.0, (tokens - x0) / (x1 - x0)) if x1 > x0 else y1

    def left_s(self, tokens: float, since_s: float) -> float:
        """Seconds that are left where a part of the tokens took ``since_s``.

        >>> Pace([(0.1, 0.5)]).left_s(0.1, 30.0), Pace([]).left_s(0.1, 30.0)
        (30.0, 270.0)
        """
        behind = self.promised(tokens)
        return since_s * (1 - behind) / max(1e-9, behind)


def _of_blocks(plan: Plan, blocks: int) -> Iterator[Point]:
    """A block's first tokens come when its prompts are done."""
    p, gen_len = plan.prediction, plan.problem.workload.gen_len
    for block in range(blocks):
        yield block / blocks, block / blocks
        yield (block + 1 / gen_len) / blocks, (block + p.prefill_s / p.total_s) / blocks


def _of_passes(plan: Plan) -> Iterator[Point]:
    """Each pass of a rolling job gives a token to whoever is there."""
    boardings = boardings_of(plan.problem.workload, plan.policy)
    some = [sum(map(len, (*one.guests.values(), *one.newcomers.values()))) for one in boardings]
    tokens = list(accumulate(some))
    for number in range(0, len(tokens), -(-len(tokens) // _POINTS)):
        yield tokens[number] / tokens[-1], (number + 1) / len(tokens)
