"""The search planner, the default: what the linear program proposes, judged by simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from flexplan.cost import Rates
from flexplan.plan import Plan
from flexplan.plugins import SCHEDULES, make
from flexplan.policy import Policy
from flexplan.prediction import Schedule, predict
from flexplan.problem import Problem, Workload
from flexplan.simulator import simulate_graph
from flexplan.timeline import Timeline
from flexplan_planners.lp import LpPlanner, read_back
from flexplan_planners.rounding import Optimum, kind_of, variants

_MARGIN = 0.01  # programs closer than that are for the simulator to tell apart
_SPREAD = 0.25  # the simulator has overturned a lead of the linear program as large as this
_CANDIDATES = 4
_EQUAL = 0.003  # closer than the simulator is to a machine: then the plan with fewer tasks
_FEW_LAYERS = (2, 4)


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
        candidates: int = _CANDIDATES,
    ) -> None:
        self.schedule = schedule
        self.proposer = LpPlanner(schedule, host_attention=host_attention, sep_layer=sep_layer)
        self.candidates = candidates

    def plan(self, problem: Problem) -> Plan:
        """The fastest of the candidates; raises InfeasiblePlan with numbers."""
        chosen: Schedule = make(SCHEDULES, self.schedule)
        optima = self.shortlist(problem)
        policies = [read_back(o.program, o.num_gpu_batches, o.solution.shares) for o in optima]
        ranked = ranking(problem, list(dict.fromkeys(policies)), chosen)
        for candidate in ranked:
            optimum = optima[policies.index(candidate.policy)]
            policy = self.proposer.fitted(problem, optimum)
            if policy is not None:
                return Plan.of(problem, policy, schedule=self.schedule, planner="search")
        raise self.proposer.refusal(problem)

    def shortlist(self, problem: Problem) -> list[Optimum]:
        """The fastest of each kind, and of the fastest the variants with the fewest tasks."""
        optima = self.proposer.optima(problem, _SPREAD)
        if not optima:
            return []
        first = list({kind_of(o.program): o for o in reversed(optima)}.values())
        near = variants(self.proposer.model(problem), optima[0], problem.workload.num_prompts, _MARGIN)
        near.sort(key=lambda o: (_num_tasks(o), o.seconds_per_prompt))
        return [*first, *near][: self.candidates]


def ranking(problem: Problem, policies: Sequence[Policy], schedule: Schedule) -> list[Candidate]:
    """The fastest first, but of those that are as good as equal the one with the fewest tasks."""
    found = [
        Candidate(
            policy,
            seconds_per_prompt(problem, policy, schedule),
            policy.num_gpu_batches * (2 if policy.sep_layer else 1),
        )
        for policy in policies
    ]
    found.sort(key=lambda c: c.seconds_per_prompt)
    equal = [c for c in found if c.seconds_per_prompt <= found[0].seconds_per_prompt * (1 + _EQUAL)]
    return [*sorted(equal, key=lambda c: c.tasks), *found[len(equal) :]]


def _num_tasks(optimum: Optimum) -> int:
    """What the number of tasks grows with."""
    return optimum.num_gpu_batches * (2 if optimum.program.switches.get("sep_layer") else 1)


# -- a quick prediction ------------------------------------------------------------------------------------------
def seconds_per_prompt(problem: Problem, policy: Policy, schedule: Schedule) -> float:
    """Simulated on a model of few layers, the others priced as the difference between a few and some more."""
    few, more = _FEW_LAYERS
    if problem.model.num_layers <= more + 2:
        prediction = predict(problem, policy, schedule)
        return problem.workload.gen_len / prediction.tokens_per_s
    first, second = (_block_seconds(_of_layers(problem, n), policy, schedule) for n in (few, more))
    seconds = first + (problem.model.num_layers - few) * (second - first) / (more - few)
    prompts = problem.workload.num_prompts or policy.block_size
    return seconds * ceil(prompts / policy.block_size) / prompts


def _of_layers(problem: Problem, num_layers: int) -> Problem:
    return problem.model_copy(update={"model": problem.model.model_copy(update={"num_layers": num_layers})})


def _block_seconds(problem: Problem, policy: Policy, schedule: Schedule) -> float:
    """One full block: the prefill, and decoding at its middle position."""
    workload, rates = problem.workload, Rates(problem.hardware)
    lens = workload.prompt_lens or (workload.prompt_len,)
    prompt, decoded = ceil(sum(lens) / len(lens)), workload.gen_len - 1

    def run(prompt_len: int, tokens: int) -> Timeline:
        prompts = min(policy.block_size, workload.num_prompts or policy.block_size)
        part = Workload(prompt_len=prompt_len, gen_len=tokens, num_prompts=prompts)
        return simulate_graph(schedule.build(problem.model_copy(update={"workload": part}), policy), rates, keep=False)

    if decoded <= 2:
        return run(prompt, decoded + 1).end_s
    middle = run(prompt + (decoded - 1) // 2, 3)
    ends = middle.sweep_end_s
    return run(prompt, 1).end_s + decoded * (ends[2] - ends[1])
