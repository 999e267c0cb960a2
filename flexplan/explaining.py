"""Explaining: what limits a plan, and what more of each resource would bring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flexplan.cost import Rates
from flexplan.errors import FlexplanError
from flexplan.hardware import Hardware
from flexplan.plan import Plan
from flexplan.planning import Schedule, solve
from flexplan.plugins import SCHEDULES, available, make
from flexplan.prediction import predict
from flexplan.problem import Problem
from flexplan.simulator import simulate_graph
from flexplan.timeline import Timeline

MORE = 1.25
_FULL = 0.95  # a tier that is used this far binds
_TIERS = ("gpu", "cpu", "disk")
_SPEEDS = {
    "link": ("link_up_bytes_per_s", "link_down_bytes_per_s", "link_duplex_bytes_per_s", "pageable_up_bytes_per_s"),
    "host memory": ("host_bytes_per_s", "host_attention_bytes_per_s"),
    "disk": ("disk_read_bytes_per_s", "disk_write_bytes_per_s"),
    "gpu": ("gpu_flops_per_s", "gpu_bytes_per_s"),
}


@dataclass(frozen=True)
class Explanation:
    """``prefill`` and ``token`` are busy seconds by lane of the first pass and of one pass half-way.

    ``brings`` is the gain in tokens a second, in percent, of a quarter more: of a tier's budget after
    solving again, of a speed with the policy as it is.  None where it could not be found.
    """

    plan: Plan
    prefill: Timeline
    token: Timeline
    binding: tuple[str, ...]
    brings: Mapping[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "plan": self.plan.to_dict(),
            "busiest_lane": {"prefill": self.prefill.busiest_lane(), "decode": self.token.busiest_lane()},
            "prefill": {"seconds": self.prefill.end_s, "lane_busy_s": self.prefill.lane_busy_s},
            "one_decode_pass": {"seconds": self.token.end_s, "lane_busy_s": self.token.lane_busy_s},
            "binding": list(self.binding),
            "a_quarter_more_brings_percent": dict(self.brings),
        }


def explain_plan(plan: Plan) -> Explanation:
    """Times by lane, the tiers that are full, and the value of more."""
    budgets = plan.problem.budgets()
    full = tuple(t for t in _TIERS if budgets[t] and plan.prediction.peak_bytes[t] >= _FULL * budgets[t])
    gains: dict[str, float | None] = {}
    for tier in _TIERS:
        gains[f"{tier} memory" if tier != "disk" else "disk space"] = _gain_of_budget(plan, tier)
    for name, fields in _SPEEDS.items():
        gains[f"{name} speed"] = _gain_of_speed(plan, fields)
    return Explanation(plan, _first_pass(plan), _middle_pass(plan), full, gains)


def _first_pass(plan: Plan) -> Timeline:
    return _play(plan, 0, 1)


def _middle_pass(plan: Plan) -> Timeline:
    """The pass half-way through the output: what two tokens more take than one."""
    gen_len = plan.problem.workload.gen_len
    if gen_len < 2:
        return Timeline()
    extra = max(0, gen_len // 2 - 1)
    if gen_len == 2:
        return _less(_play(plan, 0, 2), _play(plan, 0, 1))
    return _less(_play(plan, extra, 3), _play(plan, extra, 2))


def _play(plan: Plan, extra: int, tokens: int) -> Timeline:
    work = plan.problem.workload
    lens = tuple(n + extra for n in work.prompt_lens)
    changed = work.model_copy(update={"prompt_len": work.prompt_len + extra, "prompt_lens": lens, "gen_len": tokens})
    problem = plan.problem.model_copy(update={"workload": changed})
    return simulate_graph(_schedule(plan).build(problem, plan.policy), Rates(problem.hardware), keep=False)


def _less(more: Timeline, less: Timeline) -> Timeline:
    busy = {lane: s - less.lane_busy_s.get(lane, 0.0) for lane, s in more.lane_busy_s.items()}
    return Timeline(end_s=more.end_s - less.end_s, lane_busy_s={lane: s for lane, s in busy.items() if s > 0})


def _schedule(plan: Plan) -> Schedule:
    found: Schedule = make(SCHEDULES, plan.schedule)
    return found


def _gain_of_budget(plan: Plan, tier: str) -> float | None:
    """Solve again; None for a plan by hand, which nobody would change."""
    if plan.planner == "manual" or plan.planner not in available("flexplan.planners"):
        return None
    hardware = plan.problem.hardware
    more = hardware.with_budget(**{tier: round(MORE * getattr(hardware, f"{tier}_bytes"))})
    try:
        better = solve(_on(plan.problem, more), plan.planner, schedule=plan.schedule)
    except FlexplanError:
        return None
    return _percent(better.prediction.tokens_per_s, plan)


def _gain_of_speed(plan: Plan, fields: tuple[str, ...]) -> float:
    hardware = plan.problem.hardware
    faster = hardware.model_copy(update={name: MORE * getattr(hardware, name) for name in fields})
    found = predict(_on(plan.problem, faster), plan.policy, _schedule(plan))
    return _percent(found.tokens_per_s, plan)


def _on(problem: Problem, hardware: Hardware) -> Problem:
    return problem.model_copy(update={"hardware": hardware})


def _percent(tokens_per_s: float, plan: Plan) -> float:
    return 100 * (tokens_per_s / plan.prediction.tokens_per_s - 1)
