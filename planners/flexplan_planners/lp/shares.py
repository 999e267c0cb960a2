"""Shares of a solution as the percents of a policy, and back."""

from __future__ import annotations

from math import floor
from typing import Any

from flexplan.graph import TIERS
from flexplan.policy import Policy
from flexplan_planners.lp.bytes import PERCENT_DECIMALS
from flexplan_planners.lp.rows import Program, Shares


def read_back(program: Program, num_gpu_batches: int, shares: Shares) -> Policy:
    """The policy of a solution: percents of three decimals, rounded down on the faster TIERS."""
    percents: dict[str, float] = {}
    for what in ("w", "cache", "act"):
        gpu, cpu = (_percent(shares[f"{what}_{tier}"]) for tier in ("gpu", "cpu"))
        cpu = min(cpu, _rest(gpu))  # what a solver's tolerance lets through would be more than the whole
        if shares[f"{what}_disk"] < 10.0 ** -(PERCENT_DECIMALS + 2):
            cpu = _rest(gpu)
        percents |= {f"{what}_gpu_percent": gpu, f"{what}_cpu_percent": cpu}
    given: dict[str, Any] = {**percents, **program.switches}
    return Policy(program.gpu_batch_size, num_gpu_batches, **given)


def shares_of(policy: Policy) -> dict[str, float]:
    """The shares of a policy, as the program names them."""
    return {
        f"{what}_{tier}": share
        for what in ("w", "cache", "act")
        for tier, share in zip(TIERS, policy.shares(what), strict=True)
    }


def _percent(share: float) -> float:
    """A share in percent, rounded down; a solver's 1 may be a little less, and its 0 less than nothing.

    >>> _percent(0.99999999999), _percent(-2e-8), _percent(0.123456)
    (100.0, 0.0, 12.345)
    """
    unit = 10.0**PERCENT_DECIMALS
    return min(100.0, max(0.0, floor(100 * share * unit + 1e-4) / unit))


def _rest(gpu: float) -> float:
    """What leaves nothing, not even 1e-14 of rounding, to the disk."""
    cpu = round(100 - gpu, PERCENT_DECIMALS)
    return cpu if 100 - gpu - cpu <= 0 else 100 - gpu
