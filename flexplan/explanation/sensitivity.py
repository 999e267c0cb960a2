"""Sensitivity: what more of each resource would bring, found by solving again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flexplan.errors import FlexplanError
from flexplan.hardware import Hardware
from flexplan.plan import Plan, solve
from flexplan.plugins import PLANNERS, available, make
from flexplan.policy import lossy_fields
from flexplan.problem import Problem
from flexplan.sandbox import schedule_of
from flexplan.schedule import rolls
from flexplan.simulation import predict
from flexplan.units import MiB, format_size

FASTER_PERCENT = 25
MORE = {"gpu": "GPU memory", "cpu": "host memory", "disk": "disk space"}
FASTER = {
    "link": ("link_up_bytes_per_s", "link_down_bytes_per_s", "link_duplex_bytes_per_s", "pageable_up_bytes_per_s"),
    "host memory": ("host_bytes_per_s", "host_attention_bytes_per_s"),
    "disk": ("disk_read_bytes_per_s", "disk_write_bytes_per_s"),
    "GPU": ("gpu_flops_per_s", "gpu_bytes_per_s"),
}


@dataclass(frozen=True, slots=True)
class Gain:
    """``percent`` more tokens a second from ``more`` (``4 GiB more GPU memory``) of ``resource``.

    ``solved`` is False where the planner could not be asked again, and the policy was kept as it is.
    """

    resource: str
    more: str
    percent: float
    solved: bool

    def __str__(self) -> str:
        return f"{self.more}: {self.percent:+z.1f} %"


def gains(plan: Plan) -> list[Gain]:
    """Of every tier about a quarter more memory, of every speed a quarter more.

    A plan by hand, which nobody would change, gains from speed alone.
    """
    return [*(_of_memory(plan) if _is_planned(plan) else ()), *_of_speed(plan)]


def at_the_margin(plan: Plan) -> dict[str, float]:
    """What 1 % more of each tier would bring in percent, by the duals of the planner's program, if it has one.

    Right for small steps in the same block; empty for a planner without ``shadow_prices(problem, policy)``.
    """
    if not _is_planned(plan):
        return {}
    priced = getattr(make(PLANNERS, plan.planner, **_options(plan)), "shadow_prices", None)
    found = priced(plan.problem, plan.policy) if priced else {}
    return {MORE[tier]: gain for tier, gain in found.items() if tier in MORE}


def step_bytes(budget: int) -> int:
    """About a quarter of a budget, as people would buy it: a power of two, 64 MiB at least for larger ones.

    >>> step_bytes(16 << 30) >> 30, step_bytes(200 << 30) >> 30
    (4, 32)
    """
    return 1 << max(0, (max(budget, 4 * MiB) // 4).bit_length() - 1)


def _of_memory(plan: Plan) -> Iterator[Gain]:
    """The plan as it is stays right where there is more memory, so nothing is ever lost."""
    hardware = plan.problem.hardware
    for tier, words in MORE.items():
        budget: int = getattr(hardware, f"{tier}_bytes")
        step = step_bytes(budget)
        size = format_size(step).partition(" (")[0].replace(".00", "")
        kept = plan.prediction.tokens_per_s
        yield _gain(plan, words, f"{size} more {words}", hardware.with_budget(**{tier: budget + step}), kept)


def _of_speed(plan: Plan) -> Iterator[Gain]:
    hardware, schedule = plan.problem.hardware, schedule_of(plan.schedule)
    for part, fields in FASTER.items():
        times = 1 + FASTER_PERCENT / 100
        faster = hardware.model_copy(update={name: times * getattr(hardware, name) for name in fields})
        kept = predict(_on(plan, faster), plan.policy, schedule).tokens_per_s
        yield _gain(plan, f"{part} speed", f"{FASTER_PERCENT} % faster {part}", faster, kept)


def _gain(plan: Plan, resource: str, more: str, hardware: Hardware, kept: float) -> Gain:
    """The better of the planner's new answer and the plan as it is, which makes ``kept`` tokens a second there."""
    solved = _solved_again(plan, _on(plan, hardware))
    best = max(kept, solved or 0.0)
    return Gain(resource, more, 100 * (best / plan.prediction.tokens_per_s - 1), solved is not None)


def _on(plan: Plan, hardware: Hardware) -> Problem:
    update = {"hardware": hardware, "objective": plan.problem.objective.for_speed}
    return plan.problem.model_copy(update=update)


def _solved_again(plan: Plan, problem: Problem) -> float | None:
    """Tokens a second of the planner's answer, if there is one."""
    if not _is_planned(plan):
        return None
    try:
        return solve(problem, plan.planner, **_options(plan)).prediction.tokens_per_s
    except FlexplanError:
        return None


def _is_planned(plan: Plan) -> bool:
    return plan.planner != "manual" and plan.planner in available(PLANNERS)


def _options(plan: Plan) -> dict[str, Any]:
    """What the planner was given, as far as the plan shows it."""
    lossy = lossy_fields(plan.policy)
    quick = {"effort": "quick"} if plan.planner == "search" and rolls(schedule_of(plan.schedule)) else {}
    return {"schedule": plan.schedule} | ({"lossy": lossy} if lossy else {}) | quick
