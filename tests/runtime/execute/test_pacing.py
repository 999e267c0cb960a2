"""The thread that feeds the lanes rests, but only while they have enough to do."""

from __future__ import annotations

import itertools

import pytest
from flexplan_runtime.execute import pacing
from flexplan_runtime.execute.lanes import Token
from flexplan_runtime.execute.pacing import Rests

from flexplan.graph import Task


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Rests taken, by a clock that goes on by 40 us each time it is read."""
    taken: list[float] = []
    clock = itertools.count()
    monkeypatch.setattr(pacing.time, "perf_counter", lambda: next(clock) * 4e-5)
    monkeypatch.setattr(pacing.time, "sleep", taken.append)
    return taken


def queued(issued: int) -> list[Token]:
    """Ten tasks, the first of which have begun."""
    tokens = [Token(n, Task("compute", "gpu", 0, n, 0)) for n in range(10)]
    for token in tokens[:issued]:
        token.issued.set()
    return tokens


def test_it_rests_after_each_moment_of_work(slept: list[float]) -> None:
    rests, tokens = Rests(), queued(5)
    for _ in range(300):
        rests.rest(tokens)
    assert 300 * 4e-5 / 3 < sum(slept) < 300 * 4e-5


@pytest.mark.parametrize("tokens", [queued(6), queued(10), []], ids=["half has begun", "all has", "nothing is queued"])
def test_it_does_not_rest_where_the_lanes_may_soon_wait_for_it(slept: list[float], tokens: list[Token]) -> None:
    rests = Rests()
    for _ in range(300):
        rests.rest(tokens)
    assert not slept
