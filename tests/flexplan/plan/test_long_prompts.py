"""A few prompts that are much longer than the others are said to cost all of them."""

from __future__ import annotations

import re
import warnings

import pytest

from flexplan.plan import solve
from flexplan.plan.long_prompts import longest_common
from flexplan.problem import Problem

SHORT = tuple(20 + 7 * n % 100 for n in range(200))
LONG = 12_000


def asked(lens: tuple[int, ...]) -> Problem:
    return Problem.of(
        "Qwen/Qwen2.5-32B", hardware="rtx4090", gpu_mem="24G", cpu_mem="128G", gen_len=32, prompt_lens=lens
    )


def test_one_long_prompt_among_short_ones_is_a_warning_with_the_seconds_and_what_to_do() -> None:
    with pytest.warns(UserWarning, match="a file of their own") as caught:
        together = solve(asked((*SHORT, LONG)))
    said = str(caught[0].message)
    limit = longest_common((*SHORT, LONG))
    assert said.startswith(f"1 of 201 prompts have more than {limit} tokens, the longest {LONG}")
    seconds = [float(number) for number in re.findall(r"([\d.e+]+) s\b", said)]
    apart = [solve(asked(lens)).prediction.total_s for lens in (SHORT, (LONG,))]
    assert seconds == pytest.approx([together.prediction.total_s, *apart], rel=1e-3)
    assert together.prediction.total_s > 1.5 * sum(apart)


@pytest.mark.parametrize("lens", [SHORT, (*SHORT, 2 * max(SHORT)), (LONG, LONG)])
def test_lengths_of_one_kind_are_no_warning(lens: tuple[int, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solve(asked(lens))
