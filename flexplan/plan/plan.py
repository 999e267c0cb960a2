"""Plan: a policy, the problem it answers, and what it promises; the task graph is derived from it."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flexplan.cost.rates import Rates
from flexplan.errors import PolicyError
from flexplan.files import write_whole
from flexplan.graph.graph import TaskGraph
from flexplan.graph.timeline import Timeline
from flexplan.placement.placement import Placement
from flexplan.plan.budgets import largest_block, refuse_over_budget
from flexplan.plugins import SCHEDULES, make
from flexplan.policy.blocks import full_block
from flexplan.policy.policy import POLICY_VERSION, Policy, check_version, read_strict_json
from flexplan.problem.problem import Problem
from flexplan.schedule.protocol import Schedule
from flexplan.simulation.prediction import Prediction, peak_bytes, predict
from flexplan.simulation.simulator import simulate_graph


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

        Raises InfeasiblePlan with the tiers that are too small.
        """
        chosen: Schedule = make(SCHEDULES, schedule)
        refuse_over_budget(peak_bytes(problem, policy, chosen), problem, lambda: largest_block(problem, policy, chosen))
        placement = Placement.of(problem.model, policy, full_block(problem.workload, policy))
        promised = prediction or predict(problem, policy, chosen)
        return cls(policy, problem, schedule, planner, placement.realised(), promised)

    @property
    def graph(self) -> TaskGraph:
        """The task graph of the first block."""
        graph: TaskGraph = make(SCHEDULES, self.schedule).build(self.problem, self.policy)
        return graph

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
        asked = {what: [100 * share for share in self.policy.shares(what)] for what in self.realised}
        return {
            "version": POLICY_VERSION,
            "planner": self.planner,
            "schedule": self.schedule,
            "policy": self.policy.to_dict(),
            "placement": {"asked": asked, "realised": {k: list(v) for k, v in self.realised.items()}},
            "prediction": {**asdict(self.prediction), "of": _digest(self.policy, self.problem, self.schedule)},
            "problem": self.problem.model_dump(mode="json"),
        }

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
        """The plan that ``to_json`` wrote."""
        given = read_strict_json(text, "plan")
        check_version(given.get("version"), "plan")
        missing = {"policy", "problem", "schedule", "prediction", "placement"} - given.keys()
        if missing:
            raise PolicyError("FP208", f"the plan lacks {', '.join(sorted(missing))}", fix="solve again")
        policy = Policy.from_dict(given["policy"])
        try:
            problem = Problem.model_validate_json(json.dumps(given["problem"]))
            schedule, planner = str(given["schedule"]), str(given.get("planner", "manual"))
            stored = dict(given["prediction"])
            if stored.pop("of", None) != _digest(policy, problem, schedule):
                warnings.warn("the policy was edited: placement and prediction are computed anew", stacklevel=2)
                return cls.of(problem, policy, schedule=schedule, planner=planner)
            realised = {what: tuple(shares) for what, shares in given["placement"]["realised"].items()}
            return cls(policy, problem, schedule, planner, realised, Prediction(**stored))
        except (ValidationError, AttributeError, TypeError, KeyError, ValueError) as error:
            raise PolicyError("FP208", f"the plan does not read: {error}", fix="solve again") from None


def simulate(plan: Plan, *, keep: bool = True) -> Timeline:
    """The predicted timeline of the plan's first block; with ``keep`` False only its sums.

    >>> from flexplan import Plan, Policy, Problem, simulate
    >>> plan = Plan.of(Problem.of("facebook/opt-125m", prompt_len=8, gen_len=2), Policy())
    >>> simulate(plan).busiest_lane()
    'gpu'
    """
    timeline = simulate_graph(plan.graph, Rates(plan.problem.hardware), keep=keep)
    timeline.peak_bytes = dict(plan.prediction.peak_bytes)
    return timeline


def read_policy_file(path: str | Path) -> str:
    """The text of a policy or plan file."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError("FP209", f"cannot read {path}: {error}", fix="give the file that solve -o wrote") from None


def load_policy(path: str | Path) -> Policy | Plan:
    """A file with a whole plan, or with nothing but policy fields."""
    text = read_policy_file(path)
    whole = {"policy", "problem"} & read_strict_json(text, "policy").keys()
    return Plan.from_json(text) if whole else Policy.from_json(text)


def _digest(policy: Policy, problem: Problem, schedule: str) -> str:
    text = json.dumps([policy.to_dict(), problem.model_dump(mode="json"), schedule], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
