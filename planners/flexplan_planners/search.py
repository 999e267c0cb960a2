"""The search planner, the default: what the linear program proposes, judged by simulation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, inf

from flexplan.plan import Plan
from flexplan.plugins import SCHEDULES, make
from flexplan.policy import Policy
from flexplan.prediction import Prediction, Schedule, predict
from flexplan.problem import Problem
from flexplan_planners.lp import LpPlanner, read_back
from flexplan_planners.rounding import Optimum, kind_of, optimise, wider

_SPREAD = 0.25  # the simulator has overturned a lead of the linear program as large as this
_CANDIDATES = 3
_EQUAL = 0.008  # closer than a simulation is to a machine: then the plan with fewer tasks


@dataclass(frozen=True, slots=True)
class Candidate:
    """A proposal, its policy, what is predicted for a typical block of it, and that in seconds a prompt."""

    optimum: Optimum
    policy: Policy
    prediction: Prediction
    seconds_per_prompt: float

    @property
    def num_tasks(self) -> int:
        """What the number of tasks of a layer grows with: those that compute, and those that move activations."""
        each = (10 if self.policy.sep_layer else 6) + (2 if self.policy.act_gpu_percent < 100 else 0)
        return self.policy.num_gpu_batches * each


class SearchPlanner:
    """The linear program's best blocks, the best of each kind among them, re-ranked by simulating their task graphs."""

    def __init__(
        self,
        schedule: str = "zigzag",
        *,
        host_attention: Sequence[bool] = (True, False),
        sep_layer: Sequence[bool] = (False, True),
        candidates: int = _CANDIDATES,
    ) -> None:
        self.schedule = schedule
        self.proposer = LpPlanner(schedule, host_attention=host_attention, sep_layer=sep_layer)
        self.candidates = candidates

    def plan(self, problem: Problem) -> Plan:
        """The fastest of the candidates; raises InfeasiblePlan with numbers."""
        chosen: Schedule = make(SCHEDULES, self.schedule)
        for candidate in ranking(problem, self.shortlist(problem), chosen):
            policy = self.proposer.fitted(problem, candidate.optimum)
            if policy is not None:
                known = policy == candidate.policy and typical(problem, policy) == problem
                prediction = candidate.prediction if known else None
                return Plan.of(problem, policy, schedule=self.schedule, planner="search", prediction=prediction)
        raise self.proposer.refusal(problem)

    def shortlist(self, problem: Problem) -> list[Optimum]:
        """The fastest of each kind, and two blocks of much wider micro-batches, which take fewer tasks."""
        model, num_prompts = self.proposer.model(problem), problem.workload.num_prompts
        optima = optimise(model, num_prompts, _SPREAD)
        if not optima:
            return []
        first = {kind_of(o.program): o for o in reversed(optima)}
        fastest = sorted(first.values(), key=lambda o: o.seconds_per_prompt)[: self.candidates]
        return [*fastest, *wider(model, optima[0], num_prompts)]


def ranking(problem: Problem, proposed: Iterable[Optimum], schedule: Schedule) -> list[Candidate]:
    """The fastest first, but of those that are as good as equal the one with the fewest tasks.

    The program's seconds are a lower bound of the simulator's: who is behind by these is not simulated.
    """
    found: dict[Policy, Candidate] = {}
    best = inf
    for optimum in sorted(proposed, key=lambda o: o.seconds_per_prompt):
        policy = read_back(optimum.program, optimum.num_gpu_batches, optimum.solution.shares)
        if optimum.seconds_per_prompt <= best * (1 + _EQUAL) and policy not in found:
            found[policy] = judged(problem, optimum, policy, schedule)
            best = min(best, found[policy].seconds_per_prompt)
    ranked = sorted(found.values(), key=lambda c: c.seconds_per_prompt)
    equal = [c for c in ranked if c.seconds_per_prompt <= best * (1 + _EQUAL)]
    return [*sorted(equal, key=lambda c: c.num_tasks), *ranked[len(equal) :]]


def judged(problem: Problem, optimum: Optimum, policy: Policy, schedule: Schedule) -> Candidate:
    """A proposal with its prediction; the last block of a given number of prompts counts as a full one."""
    prediction = predict(typical(problem, policy), policy, schedule)
    prompts = problem.workload.num_prompts or policy.block_size
    blocks = ceil(prompts / policy.block_size)
    return Candidate(optimum, policy, prediction, prediction.total_s * blocks / prompts)


def typical(problem: Problem, policy: Policy) -> Problem:
    """One block of the workload, all prompts of the mean length."""
    workload = problem.workload
    lens = workload.prompt_lens or (workload.prompt_len,)
    changes = {
        "prompt_lens": (),
        "prompt_len": ceil(sum(lens) / len(lens)),
        "num_prompts": workload.num_prompts and min(workload.num_prompts, policy.block_size),
    }
    return problem.model_copy(update={"workload": workload.model_copy(update=changes)})
