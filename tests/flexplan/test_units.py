"""Sizes as people type them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexplan.errors import UsageError
from flexplan.units import GiB, format_size, parse_size, round_up


@pytest.mark.parametrize("text", ["16G", "16Gi", "16GiB", "16g", " 16 G ", "16gib", "16384M", "16.0G", str(16 * GiB)])
def test_binary_spellings_mean_the_same(text: str) -> None:
    assert parse_size(text) == 16 * 2**30


@pytest.mark.parametrize(("text", "nbytes"), [("16GB", 16 * 10**9), ("1.5KB", 1500), ("2TB", 2 * 10**12), ("5B", 5)])
def test_a_b_after_a_prefix_counts_in_thousands(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "G", "16X", "-1G", "1e9", "nan", "inf", "16 16G", "0x10", "16GG", "1,5G", -1])
def test_what_is_no_size_is_refused_with_its_text(text: str | int) -> None:
    with pytest.raises(UsageError) as refused:
        parse_size(text)
    assert refused.value.code == "FP101"
    assert str(text) in refused.value.message


@pytest.mark.parametrize("value", [True, None, 1.5, [], {}])
def test_what_is_no_text_and_no_int_is_refused(value: object) -> None:
    with pytest.raises(UsageError):
        parse_size(value)  # type: ignore[arg-type]


@given(st.integers(0, 2**60))
def test_bytes_are_themselves_as_int_and_as_text(nbytes: int) -> None:
    assert parse_size(nbytes) == nbytes
    assert parse_size(f"{nbytes >> 10}K") == nbytes >> 10 << 10


@given(st.integers(0, 2**50), st.integers(1, 2**20))
def test_rounding_up_reaches_the_next_multiple(nbytes: int, alignment: int) -> None:
    rounded = round_up(nbytes, alignment)
    assert rounded % alignment == 0
    assert 0 <= rounded - nbytes < alignment


def test_a_size_is_shown_in_both_units() -> None:
    assert format_size(16 * GiB) == "16.00 GiB (17.18 GB)"
    assert format_size(100) == "100 B"
