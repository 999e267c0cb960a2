"""The search planner, the default: what the linear program proposes, judged by simulation."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from flexplan.plan import Plan
from flexplan.plugins import SCHEDULES, make
from flexplan.policy import Policy
from flexplan.prediction import Schedule
from flexplan.problem import Problem
from flexplan_planners.fewlayers import seconds_per_prompt
from flexplan_planners.lp import LpPlanner
from flexplan_planners.readback import read_back
from flexplan_planners.rounding import Optimum, kind_of, optimise, wider

_SPREAD = 0.25  # the simulator has overturned a lead of the linear program as large as this
_CANDIDATES = 3
_EQUAL = 0.008  # closer than a simulation is to a machine: then the plan with fewer tasks


@dataclass(frozen=True, slots=True)
class Candidate:
    """A policy and its simulated seconds a prompt."""

    policy: Policy
    seconds_per_prompt: float
    tasks: int


class SearchPlanner:
    """The linear program's best blocks, the best of each kind among them, re-ranked by simulating their task graphs."""

    def __init__(
        self,
        schedule: str = "zigzag",
        *,
        host_attention: Sequence[bool] = (True, False),
        sep_layer: Sequence[bool] = (False, True),
        lossy: Collection[str] = (),
        candidates: int = _CANDIDATES,
    ) -> None:
        self.schedule = schedule
        self.proposer = LpPlanner(schedule, host_attention=host_attention, sep_layer=sep_layer, lossy=lossy)
        self.candidates = candidates

    def plan(self, problem: Problem) -> Plan:
        """The fastest of the candidates; raises InfeasiblePlan with numbers."""
        chosen: Schedule = make(SCHEDULES, self.schedule)
        proposed = self.shortlist(problem)
        for candidate in ranking(problem, list(proposed), chosen):
            policy = self.proposer.fitted(problem, proposed[candidate.policy])
            if policy is not None:
                return Plan.of(problem, policy, schedule=self.schedule, planner="search")
        policy = self.proposer.squeezed(problem)
        if policy is None:
            raise self.proposer.refusal(problem)
        return Plan.of(problem, policy, schedule=self.schedule, planner="search")

    def shortlist(self, problem: Problem) -> dict[Policy, Optimum]:
        """The fastest of each kind, and two blocks of much wider micro-batches, which take fewer tasks."""
        model, num_prompts = self.proposer.model(problem), problem.workload.num_prompts
        optima = optimise(model, num_prompts, _SPREAD)
        if not optima:
            return {}
        first = {kind_of(o.program): o for o in reversed(optima)}
        proposed = dict(list({policy_of(o): o for o in first.values()}.items())[: self.candidates])
        return proposed | {policy_of(o): o for o in wider(model, optima[0], num_prompts)}


def policy_of(optimum: Optimum) -> Policy:
    """The policy as the linear program has it."""
    return read_back(optimum.program, optimum.num_gpu_batches, optimum.solution.shares)


def ranking(problem: Problem, policies: Sequence[Policy], schedule: Schedule) -> list[Candidate]:
    """The fastest first, but of those that are as good as equal the one with the fewest tasks."""
    found = [Candidate(policy, seconds_per_prompt(problem, policy, schedule), num_tasks(policy)) for policy in policies]
    found.sort(key=lambda c: c.seconds_per_prompt)
    equal = [c for c in found if c.seconds_per_prompt <= found[0].seconds_per_prompt * (1 + _EQUAL)]
    return [*sorted(equal, key=lambda c: c.tasks), *found[len(equal) :]]


def num_tasks(policy: Policy) -> int:
    """What the number of tasks of a layer grows with: those that compute, and those that move activations."""
    return policy.num_gpu_batches * ((10 if policy.sep_layer else 6) + (2 if policy.act_gpu_percent < 100 else 0))
