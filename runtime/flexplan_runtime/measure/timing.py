"""Timing: how often something can be done in a second, as a median with its spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

LEAST_S = 1e-9  # what a fixed time is where noise says that it takes none
_LEAST_RUNS, _MOST_RUNS = 5, 200


@dataclass(frozen=True, slots=True)
class Figure:
    """A median, and half the distance between the quartiles in percent of it."""

    value: float
    spread_percent: float

    @classmethod
    def of(cls, values: list[float]) -> Figure:
        """The figure of several measurements."""
        middle = statistics.median(values)
        if len(values) < 2:
            return cls(middle, 0.0)
        low, _, high = statistics.quantiles(values, n=4)
        return cls(middle, 50 * (high - low) / middle if middle else 0.0)

    @classmethod
    def among(cls, figures: Sequence[Figure]) -> Figure:
        """The median of several rounds, with the larger of the spreads: within a round, and from round to round."""
        rounds = cls.of([figure.value for figure in figures])
        within = statistics.median(figure.spread_percent for figure in figures)
        return cls(rounds.value, max(within, rounds.spread_percent))

    def __str__(self) -> str:
        return f"{self.value:.3g} +- {self.spread_percent:.0f} %"


def timed(act: Callable[[], object], device: torch.device, budget_s: float) -> Figure:
    """Seconds of one call, warmed up, with the device's work finished; about ``budget_s`` are spent."""
    _once(act, device)
    values: list[float] = []
    end_s = time.perf_counter() + budget_s
    while len(values) < _LEAST_RUNS or (time.perf_counter() < end_s and len(values) < _MOST_RUNS):
        values.append(_once(act, device))
    return Figure.of(values)


def rate_of(amount: float, act: Callable[[], object], device: torch.device, budget_s: float) -> Figure:
    """Amount a second, where one call does ``amount``."""
    took = timed(act, device, budget_s)
    return Figure(amount / took.value, took.spread_percent)


def _once(act: Callable[[], object], device: torch.device) -> float:
    _finish(device)
    began_s = time.perf_counter()
    act()
    _finish(device)
    return time.perf_counter() - began_s


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
