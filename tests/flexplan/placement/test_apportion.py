"""Shares of whole things: nothing is lost, nothing drifts, and a share of nothing gets nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexplan.placement.apportion import Apportionment, cut


@st.composite
def shares(draw: st.DrawFn) -> tuple[float, float, float]:
    gpu = draw(st.floats(0, 100))
    cpu = draw(st.floats(0, 100 - gpu))
    return gpu / 100, cpu / 100, max(0.0, 100 - gpu - cpu) / 100


@given(shares(), st.lists(st.integers(0, 50), max_size=60))
def test_what_rounding_took_is_given_back(wanted: tuple[float, ...], calls: list[int]) -> None:
    apportionment, totals, asked = Apportionment(wanted), [0, 0, 0], 0
    for grains in calls:
        taken = apportionment.take(grains)
        assert sum(taken) == grains
        assert min(taken) >= 0
        asked += grains
        totals = [total + part for total, part in zip(totals, taken, strict=True)]
        for total, share in zip(totals, wanted, strict=True):
            assert abs(total - share * asked) < 2


@given(shares(), st.integers(0, 1000))
def test_a_tier_without_a_share_gets_nothing(wanted: tuple[float, ...], grains: int) -> None:
    for part, share in zip(Apportionment(wanted).take(grains), wanted, strict=True):
        assert share or not part


@given(shares(), st.integers(0, 10**9), st.sampled_from([1, 8, 64, 4096]))
def test_a_cut_loses_no_byte_and_is_off_by_less_than_a_grain(wanted: tuple[float, ...], size: int, grain: int) -> None:
    parts = cut(size, wanted, grain)
    assert sum(parts) == size
    assert min(parts) >= 0
    for part, share in zip(parts, wanted, strict=True):
        assert abs(part - share * size) <= grain * (1 + 1e-6)
        assert share or not part


@pytest.mark.parametrize(("wanted", "parts"), [((1, 0, 0), (7, 0, 0)), ((0, 1, 0), (0, 7, 0)), ((0, 0, 1), (0, 0, 7))])
def test_all_of_it_on_one_tier_is_all_of_it(wanted: tuple[float, ...], parts: tuple[int, ...]) -> None:
    assert cut(7, wanted, 64) == parts
    assert Apportionment(wanted).take(7) == parts
