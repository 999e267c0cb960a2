"""The garbage collector is paused while a plan is made, and afterwards as it was."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from flexplan.plan import solve
from flexplan.plan.pause import collector_paused
from flexplan.testing import small_problem


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    yield
    gc.enable()


@pytest.mark.parametrize("was_on", [True, False])
def test_afterwards_it_is_as_before(was_on: bool) -> None:
    (gc.enable if was_on else gc.disable)()
    with pytest.raises(ZeroDivisionError), collector_paused():
        assert not gc.isenabled()
        _ = 1 / 0
    assert gc.isenabled() == was_on


def test_no_collection_starts_while_a_plan_is_made() -> None:
    solve(small_problem(), schedule="zigzag")  # what is imported on the way
    gc.collect()
    before = gc.get_stats()[2]["collections"]
    solve(small_problem(), schedule="zigzag")
    assert gc.isenabled() and gc.get_stats()[2]["collections"] == before
