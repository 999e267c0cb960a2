"""Plan: a policy, the problem it answers, and what it promises; the task graph is derived from it."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flexplan.cost import Rates
from flexplan.errors import PolicyError
from flexplan.files import write_whole
from flexplan.graph import TaskGraph, Timeline
from flexplan.limits import MOST_FILE_BYTES, MOST_PLAN_BYTES, read_limited, wrong_type
from flexplan.placement import Placement
from flexplan.plan.budgets import largest_block, refuse_endless, refuse_over_budget
from flexplan.plan.notebook import plan_html
from flexplan.policy import POLICY_VERSION, Block, Policy, full_block, read_strict_json, rolling_block
from flexplan.problem import Problem
from flexplan.sandbox import blame_of, schedule_of
from flexplan.schedule import Schedule, refuse_to_roll, rolls
from flexplan.simulation import Prediction, job_timeline, peak_bytes, predict, simulate_graph


@dataclass(frozen=True)
class Plan:
    """The answer to a problem, ready to be saved, explained, simulated or run."""

    policy: Policy
    problem: Problem
    schedule: str
    planner: str
    realised: Mapping[str, tuple[float, float, float]]
    prediction: Prediction

    @classmethod
    def of(
        cls,
        problem: Problem,
        policy: Policy,
        *,
        schedule: str = "zigzag",
        planner: str = "manual",
        prediction: Prediction | None = None,
    ) -> Plan:
        """The plan of a policy: placed, held against the budgets and simulated, unless the prediction is known.

        Raises InfeasiblePlan with the tiers that are too small, UsageError for more steps than can be planned.
        """
        for given, wanted in ((problem, Problem), (policy, Policy)):
            if not isinstance(given, wanted):
                raise wrong_type("Plan.of", "a Problem and a Policy", given, "Plan.of(Problem.of(...), Policy(...))")
        refuse_endless(problem.model, policy, problem.workload.gen_len)
        chosen = schedule_of(schedule)
        if rolls(chosen):
            refuse_to_roll(policy)
        with blame_of(chosen):
            need = peak_bytes(problem, policy, chosen)
            refuse_over_budget(need, problem, lambda: largest_block(problem, policy, chosen))
            promised = prediction or predict(problem, policy, chosen)
        placement = Placement.of(problem.model, policy, _block(chosen, problem, policy))
        return cls(policy, problem, schedule, planner, placement.realised(), promised)

    def __hash__(self) -> int:
        return hash((self.policy, self.problem, self.schedule, self.planner))

    def __repr__(self) -> str:
        asked = f"{self.problem.model.name} on {self.problem.hardware.name}"
        rate = self.prediction.tokens_per_s
        return f"Plan({asked}, planner={self.planner!r}, schedule={self.schedule!r}, tokens_per_s={rate:.4g})"

    def _repr_html_(self) -> str:
        return plan_html(self)

    def timeline(self) -> Timeline:
        """What `simulate` says: every task of the first block, ``plan.timeline().plot()`` for people."""
        return simulate(self)

    @property
    def graph(self) -> TaskGraph:
        """The task graph of the first block."""
        return schedule_of(self.schedule).build(self.problem, self.policy)

    def under(self, problem: Problem) -> Plan:
        """The same plan as the answer to another problem that predicts the same: other budgets or bounds."""
        return replace(self, problem=problem)

    @property
    def free_bytes(self) -> dict[str, int]:
        """What the plan leaves of each budget."""
        return {tier: most - self.prediction.peak_bytes[tier] for tier, most in self.problem.budgets().items()}

    # -- files -------------------------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data, the same object for ``--json`` and ``-o``."""
        numbers = self._numbers()
        digests = {"of": _digest(self.policy, self.problem, self.schedule), "sum": digest(numbers)}
        return {
            "version": POLICY_VERSION,
            "planner": self.planner,
            "schedule": self.schedule,
            "policy": self.policy.to_dict(),
            "placement": numbers["placement"],
            "prediction": numbers["prediction"] | digests,
            "problem": self.problem.model_dump(mode="json"),
        }

    def _numbers(self) -> dict[str, Any]:
        """What follows from policy, problem and schedule, as plain data."""
        asked = {what: [100 * share for share in self.policy.shares(what)] for what in self.realised}
        realised = {what: list(shares) for what, shares in self.realised.items()}
        return {"placement": {"asked": asked, "realised": realised}, "prediction": asdict(self.prediction)}

    def to_json(self) -> str:
        """The plan as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def save(self, path: str | Path) -> None:
        """Write the plan; a reader never sees half of it."""
        write_whole(Path(path), self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan; edited policy fields win, and what they make stale is recomputed with a warning."""
        return cls.from_json(read_policy_file(path))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that ``to_json`` wrote; none of its numbers is believed: they are computed, and must agree.

        PolicyError where placement or prediction do not follow from the policy.
        """
        from flexplan.plan.plan_file import PlanFile, first_difference  # pydantic builds it: only for who reads one

        given = PlanFile.read(text)
        policy, problem = Policy.from_dict(given.policy), given.read_problem()
        edited = given.prediction.of != _digest(policy, problem, given.schedule)
        if edited:
            warnings.warn("the policy was edited: placement and prediction are computed anew", stacklevel=2)
        plan = cls.of(problem, policy, schedule=given.schedule, planner=given.planner)
        difference = first_difference(given.numbers, plan._numbers())
        if edited or difference is None:
            return plan
        if given.prediction.sum != digest(given.numbers):
            raise PolicyError("FP213", f"the plan was edited: {difference}", fix="edit the policy only, or solve again")
        warnings.warn("another flexplan wrote this plan: placement and prediction are computed anew", stacklevel=2)
        return plan


def simulate(plan: Plan, *, keep: bool = True) -> Timeline:
    """The predicted timeline of the plan's first block; with ``keep`` False only its sums.

    >>> from flexplan import Plan, Policy, Problem, simulate
    >>> plan = Plan.of(Problem.of("facebook/opt-125m", prompt_len=8, gen_len=2), Policy())
    >>> simulate(plan).busiest_lane()
    'gpu'
    """
    if not isinstance(plan, Plan):
        raise wrong_type("simulate", "a Plan", plan, "solve(Problem.of(...)) makes one")
    schedule = schedule_of(plan.schedule)
    with blame_of(schedule):
        if rolls(schedule):
            return job_timeline(plan.problem, plan.policy)
        graph = schedule.build(plan.problem, plan.policy)
        timeline = simulate_graph(graph, Rates(plan.problem.hardware), keep=keep)
    timeline.peak_bytes = dict(plan.prediction.peak_bytes)
    return timeline


def _block(schedule: Schedule, problem: Problem, policy: Policy) -> Block:
    """The largest that a plan has room for."""
    work = problem.workload
    return rolling_block(work, policy) if rolls(schedule) else full_block(work, policy)


def read_policy_file(path: str | Path) -> str:
    """The text of a policy or plan file."""
    try:
        return read_limited(path, MOST_PLAN_BYTES)
    except (OSError, ValueError) as error:
        raise PolicyError("FP209", f"cannot read {path}: {error}", fix="give the file that solve -o wrote") from None


def load_policy(path: str | Path) -> Policy | Plan:
    """A file with a whole plan, or with nothing but policy fields."""
    text = read_policy_file(path)
    most = MOST_PLAN_BYTES if '"problem"' in text else MOST_FILE_BYTES
    whole = {"policy", "problem"} & read_strict_json(text, "policy", most).keys()
    return Plan.from_json(text) if whole else Policy.from_json(text)


def digest(*parts: Any) -> str:
    """A fingerprint of plain data, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _digest(policy: Policy, problem: Problem, schedule: str) -> str:
    return digest(policy.to_dict(), problem.model_dump(mode="json"), schedule)
