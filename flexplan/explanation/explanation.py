"""Explaining: what limits a plan, what more of each resource would bring, and what there is without a planner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flexplan.explanation.critical_path import CriticalPath, critical_path_of
from flexplan.explanation.job_parts import JobPart, job_parts
from flexplan.explanation.notebook import explanation_html
from flexplan.explanation.phases import Phases, job_bound
from flexplan.explanation.places import heaviest_block
from flexplan.explanation.sensitivity import Gain, at_the_margin, gains
from flexplan.graph import TIERS
from flexplan.limits import wrong_type
from flexplan.plan import BaselineResult, Plan, baseline_results
from flexplan.policy import lossy_fields
from flexplan.sandbox import blame_of, schedule_of
from flexplan.schedule import Schedule, rolls
from flexplan.simulation import Bound, bound_of, job_time

_FULL = 0.95  # a tier that is used this far binds
_WORTH_PERCENT = 1.0  # a gain that people would pay for


@dataclass(frozen=True)
class Explanation:
    """``bound`` is what no order of the heaviest block's tasks can beat, ``binding`` the tiers that are full.

    ``critical_path`` is that of one of its decoding passes, None where nothing is decoded.
    ``gains`` come largest first; ``margins`` is what 1 % more of each tier would bring in percent, by duals.
    ``parts`` are those of a rolling schedule, and what each brings for this list; empty for blocks.
    ``of_job`` are the bounds of each phase of the whole job.
    """

    plan: Plan
    bound: Bound
    critical_path: CriticalPath | None
    binding: tuple[str, ...]
    gains: tuple[Gain, ...]
    margins: Mapping[str, float]
    baselines: tuple[BaselineResult, ...]
    parts: tuple[JobPart, ...]
    of_job: Phases

    @property
    def of_bound_percent(self) -> float:
        """How near a block is to its bound: 100 is never waiting for anything but the busiest resource."""
        return 100 * self.bound.total_s / self.plan.prediction.block_s

    @property
    def worthwhile(self) -> tuple[Gain, ...]:
        """The gains that are worth a sentence."""
        return tuple(gain for gain in self.gains if gain.percent >= _WORTH_PERCENT)

    @property
    def winner(self) -> BaselineResult | None:
        """The baseline that is faster than the plan, or is the plan; None where the plan beats them all.

        A baseline that changes tokens counts only beside a plan that does.
        """
        mine = self.plan.prediction.tokens_per_s
        fair = [r for r in self.baselines if r.plan and not self._changes_more(r.plan)]
        made = [(r.plan.prediction.tokens_per_s, r) for r in fair if r.plan]
        best = max(made, key=lambda pair: pair[0], default=None)
        if best is None or best[0] < mine:
            return None
        assert best[1].plan is not None
        return best[1] if best[0] > mine or best[1].plan.policy == self.plan.policy else None

    @property
    def lossy_and_faster(self) -> tuple[BaselineResult, ...]:
        """Baselines that are faster than the plan, but change tokens."""
        mine = self.plan.prediction.tokens_per_s
        faster = [r for r in self.baselines if r.plan and r.plan.prediction.tokens_per_s > mine]
        return tuple(r for r in faster if r.plan and self._changes_more(r.plan))

    def _changes_more(self, other: Plan) -> bool:
        return bool(lossy_fields(other.policy).keys() - lossy_fields(self.plan.policy).keys())

    def _repr_html_(self) -> str:
        return explanation_html(self)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        p = self.plan.prediction
        return {
            "plan": self.plan.to_dict(),
            "busiest_lane": dict(p.busiest_lane),
            "lane_busy_s": p.lane_busy_s,
            "phase_s": {"prefill": p.prefill_s, "decode": p.decode_s},
            "phase_bound_s": {"prefill": self.of_job.prefill_s, "decode": self.of_job.decode_s},
            "bound": {**asdict(self.bound), "block_s": p.block_s, "of_bound_percent": self.of_bound_percent},
            "critical_path": self.critical_path and self.critical_path.to_dict(),
            "binding": list(self.binding),
            "more_brings": [{**asdict(gain), "sentence": str(gain)} for gain in self.gains],
            "one_percent_more_brings": dict(self.margins),
            "schedule_brings": [part.to_dict() for part in self.parts],
            "baselines": [_baseline_object(result) for result in self.baselines],
            "winner": self.winner.name if self.winner else None,
        }


def explain(plan: Plan) -> Explanation:
    """Times by lane, the tiers that are full, the value of more, and the baselines."""
    if not isinstance(plan, Plan):
        raise wrong_type("explain", "a Plan", plan, "solve(Problem.of(...)) makes one")
    schedule = schedule_of(plan.schedule)
    with blame_of(schedule):
        return _explained(plan, schedule)


def _explained(plan: Plan, schedule: Schedule) -> Explanation:
    found = sorted(gains(plan), key=lambda gain: -gain.percent)
    bound, path = _bound_and_path(plan, schedule)
    return Explanation(
        plan,
        bound,
        path,
        binding_tiers(plan),
        tuple(found),
        at_the_margin(plan),
        tuple(baseline_results(plan.problem)),
        job_parts(plan) if rolls(schedule) else (),
        job_bound(plan),
    )


def _bound_and_path(plan: Plan, schedule: Schedule) -> tuple[Bound, CriticalPath | None]:
    """Of the heaviest block; of a rolling job the bound is that of all its passes together."""
    if rolls(schedule):
        job = job_time(plan.problem, plan.policy)
        return Bound(0.0, job.bound_s, "", job.limit), None
    block = heaviest_block(plan)
    heaviest = plan.problem.with_most_tokens(block.gen_len), plan.policy, schedule, block.lens
    return bound_of(*heaviest), critical_path_of(*heaviest)


def binding_tiers(plan: Plan) -> tuple[str, ...]:
    """The tiers that are used up."""
    budgets, need = plan.problem.budgets(), plan.prediction.peak_bytes
    return tuple(tier for tier in TIERS if budgets[tier] and need[tier] >= _FULL * budgets[tier])


def _baseline_object(result: BaselineResult) -> dict[str, Any]:
    found: dict[str, Any] = {"name": result.name, "says": result.says, "tokens_per_s": None, "why_not": result.why_not}
    if result.plan is not None:
        found |= {"tokens_per_s": result.plan.prediction.tokens_per_s, "policy": result.plan.policy.to_dict()}
    return found
