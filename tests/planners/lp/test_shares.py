"""Shares of a solution as the percents of a policy."""

from __future__ import annotations

from typing import Any

from flexplan_planners.lp import ACT, CACHE, WEIGHTS, FlexplanCosts, read_back
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import problem

_OFF = 1e-5  # what a solver's tolerance may put a share outside 0 .. 1, scaled by the number of micro-batches

near = st.floats(-_OFF, _OFF)
splits = st.tuples(st.sampled_from([(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.4, 0.6, 0), (0.2, 0.3, 0.5)]), near, near, near)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.tuples(splits, splits, splits))
def test_shares_a_little_outside_of_the_whole_are_still_a_policy(three: tuple[Any, ...]) -> None:
    program = FlexplanCosts(problem(8, 32, disk=64)).programs(1)[0]
    shares = [share + off for whole, *offs in three for share, off in zip(whole, offs, strict=True)]
    policy = read_back(program, 1, dict(zip((*WEIGHTS, *CACHE, *ACT), shares, strict=True)))
    for what in ("w", "cache", "act"):
        assert min(policy.shares(what)) >= 0
        assert abs(sum(policy.shares(what)) - 1) < 1e-9
