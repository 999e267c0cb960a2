"""The search planner, the default: what the linear program proposes, judged by simulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil, inf
from typing import Any

from flexplan.errors import InfeasiblePlan, UsageError
from flexplan.plan import Plan
from flexplan.policy import Policy
from flexplan.problem import Problem, Workload
from flexplan.problem.ragged import typical_gen_len, typical_lens
from flexplan.sandbox import schedule_of
from flexplan.schedule import Schedule
from flexplan.simulation import PHASES, Forecast, PhaseName, Prediction, with_bytes
from flexplan_planners.fit import Fitting, Needs, Optimum, Search, kind_of, neighbours, solved, within_latency
from flexplan_planners.lp import CostModel, read_back
from flexplan_planners.lp_planner import LpPlanner
from flexplan_planners.rolling_search import RollingSearch

_SPREAD = 0.25  # the simulator has overturned a lead of the linear program as large as this
_CANDIDATES = 5
_WORTH = 0.01  # what a batch size in between must promise to gain: the simulator slows alike blocks alike
_STEP = 0.004  # what a step from the best so far must promise, and bring for another
_SMALLER = 0.99, 0.97, 0.94, 0.9, 0.8  # of a batch size whose block turns out not to fit
_EQUAL = 0.008  # closer than a simulation is to a machine: then the plan with fewer tasks


@dataclass(frozen=True, slots=True)
class Effort:
    """How often the search goes on from its best answer, and how many of what lies next to it are simulated."""

    rounds: int
    tries: int


EFFORTS = {"quick": Effort(0, 0), "normal": Effort(2, 5), "thorough": Effort(12, 30)}


def _effort(name: str) -> Effort:
    if name not in EFFORTS:
        raise UsageError("FP126", f"there is no effort {name!r}", fix=f"take {', '.join(EFFORTS)}")
    return EFFORTS[name]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A proposal, its policy, what a typical block of it is predicted to take, and that in seconds a prompt.

    The seconds are less than it takes, and its forecast not made in full, where that is known to be too many.
    """

    optimum: Optimum
    policy: Policy
    forecast: Forecast
    seconds_per_prompt: float

    @property
    def prediction(self) -> Prediction:
        """Seconds without bytes."""
        return self.forecast.prediction()

    @property
    def num_tasks(self) -> int:
        """What its number of tasks grows with."""
        return tasks_of_a_layer(self.policy)


def tasks_of_a_layer(policy: Policy) -> int:
    """What the number of tasks grows with: of a layer, those that compute, and those that move activations."""
    each = (10 if policy.sep_layer else 6) + (2 if policy.act_gpu_percent < 100 else 0)
    return policy.num_gpu_batches * each


class SearchPlanner:
    """The linear program's best blocks, the best of each kind among them, re-ranked by simulating their task graphs."""

    def __init__(
        self,
        schedule: str | None = None,
        *,
        host_attention: Sequence[bool] = (True, False),
        sep_layer: Sequence[bool] = (False, True),
        experts_on_demand: Sequence[bool] = (False, True),
        lossy: Mapping[str, Any] | None = None,
        candidates: int = _CANDIDATES,
        effort: str = "normal",
    ) -> None:
        self.chosen = schedule
        self.schedule = schedule or "zigzag"
        self.effort = _effort(effort)
        self.proposer = LpPlanner(
            self.schedule,
            host_attention=host_attention,
            sep_layer=sep_layer,
            experts_on_demand=experts_on_demand,
            lossy=lossy,
        )
        self.candidates = candidates

    def plan(self, problem: Problem) -> Plan:
        """The fastest of the candidates; raises InfeasiblePlan with numbers.

        Where no schedule was asked for and answers differ in length, a rolling one is tried, too.
        """
        if self.schedule == "rolling":
            return self._rolling(problem)
        lens_differ = problem.workload.gen_lens or problem.workload.expected_lens
        if self.chosen is not None or not lens_differ or problem.objective.bounded:
            return within_latency(self._plan, problem)
        return _faster(lambda: self._plan(problem), lambda: self._rolling(problem))

    def _rolling(self, problem: Problem) -> Plan:
        proposer = self.proposer
        search = RollingSearch(
            problem, proposer.host_attention, proposer.sep_layer, proposer.lossy, rounds=2 * self.effort.rounds
        )
        policy = search.best()
        if policy is None:
            raise self.proposer.refusal(problem)
        return Plan.of(problem, policy, schedule="rolling", planner="search")

    def shadow_prices(self, problem: Problem, policy: Policy) -> dict[str, float]:
        """Those of the linear program, at the block of a policy; a rolling one has none."""
        if self.schedule == "rolling":
            return {}
        return self.proposer.shadow_prices(problem, policy)

    def _plan(self, problem: Problem) -> Plan:
        schedule = schedule_of(self.schedule)
        for candidate in self.ranking(problem):
            policy = self.proposer.fitted(problem, candidate.optimum) or self._shrunk(problem, candidate.optimum)
            if policy is not None:
                known = policy == candidate.policy and typical(problem, policy) == problem
                prediction = with_bytes(candidate.prediction, problem, policy, schedule) if known else None
                return Plan.of(problem, policy, schedule=self.schedule, planner="search", prediction=prediction)
        policy = self.proposer.squeezed(problem)
        if policy is None:
            raise self.proposer.refusal(problem)
        return Plan.of(problem, policy, schedule=self.schedule, planner="search")

    def _shrunk(self, problem: Problem, optimum: Optimum) -> Policy | None:
        """A little smaller: the program counts what a layout rounds, and two budgets may both be full to a page."""
        model, num_prompts = self.proposer.model(problem), problem.workload.num_prompts
        for part in _SMALLER:
            size = int(optimum.program.gpu_batch_size * part)
            for program in model.alike(size, optimum.program) if size else ():
                found = solved(program, optimum.num_gpu_batches, num_prompts)
                policy = None if found is None else self.proposer.fitted(problem, found)
                if policy is not None:
                    return policy
        return None

    def ranking(self, problem: Problem) -> list[Candidate]:
        """The candidates, the fastest first.

        1. The program's best block of each kind: which lanes it uses, and the disk for what; five, and what else
           promises to be faster than the fastest of these.
        2. Blocks like the fastest of these, of larger batch sizes.
        3. Blocks like the fastest so far, of batch sizes in between, twice.
        4. The fastest so far with its layers split otherwise.
        5. What lies next to the fastest so far, in the room that the program's rows count too much for that; from there
           what lies next to that, as far as the effort goes; then 4.
        """
        model, search = self.proposer.model(problem), Search(problem.workload.num_prompts, _SPREAD)
        search.explore(model, model.batch_sizes())
        ranking = Ranking(problem, schedule_of(self.schedule))
        for number, optimum in enumerate(best_of_each_kind(search)):
            if number < self.candidates or optimum.seconds_per_prompt < ranking.best_s * (1 - _WORTH):
                ranking.judge(optimum)
        sizes = list(model.batch_sizes())
        for nearby, gain in ((wider, 0.0), (halfway, _WORTH), (halfway, _WORTH)):
            for leader in ranking.ranked()[:1]:
                best = leader.optimum
                most = best.seconds_per_prompt * (1 - gain) if gain else ranking.worth_s
                for size in nearby(best, sizes):
                    sizes = sorted({*sizes, size})
                    ranking.judge(search.alike(model, size, kind_of(best.program), most))
        ranking.split_otherwise(model)
        for _ in range(self.effort.rounds):
            if not ranking.climb(model, self.effort.tries):
                break
        ranking.split_otherwise(model)
        return ranking.ranked()


def _faster(*solves: Callable[[], Plan]) -> Plan:
    """The plan that takes fewer seconds; raises what the first does where none finds one."""
    found, refusals = list[Plan](), list[InfeasiblePlan]()
    for solve in solves:
        try:
            found.append(solve())
        except InfeasiblePlan as refusal:
            refusals.append(refusal)
    if not found:
        raise refusals[0]
    return min(found, key=lambda plan: plan.prediction.total_s)


class Ranking:
    """Simulates proposals, but none whose seconds by the program, a lower bound of the simulator's, are too many."""

    def __init__(self, problem: Problem, schedule: Schedule) -> None:
        self.problem = problem
        self.schedule = schedule
        self.judged: dict[Policy, Candidate] = {}
        self.best_s = inf
        self.budgets = problem.budgets()
        self.needs: Needs = {}

    @property
    def worth_s(self) -> float:
        """Seconds a prompt of a proposal that may be as good as equal to the best so far."""
        return self.best_s * (1 + _EQUAL)

    def judge(self, optimum: Optimum | None) -> None:
        """Judge a proposal."""
        if optimum is None or optimum.seconds_per_prompt > self.worth_s:
            return
        policy = self._policy_of(optimum)
        most_s = self._most_s(policy) if policy else 0.0
        if policy and policy not in self.judged and optimum.seconds_per_prompt < most_s:
            self.judged[policy] = judged(self.problem, optimum, policy, self.schedule, most_s)
            self.best_s = min(self.best_s, self.judged[policy].seconds_per_prompt)

    def _policy_of(self, optimum: Optimum) -> Policy | None:
        """Its policy; under budgets that are larger than they are it is placed, and None where it does not fit."""
        if optimum.program.budgets == self.budgets:
            return read_back(optimum.program, optimum.num_gpu_batches, optimum.solution.shares)
        fitting = Fitting(self.problem, self.schedule, optimum.num_gpu_batches, self.needs)
        return fitting.fit(optimum.program, optimum.solution.shares, pinned=optimum.pinned)

    def _most_s(self, policy: Policy) -> float:
        """Of more seconds than these a policy is not taken: one as good as equal, or better, has no more tasks."""
        tasks = tasks_of_a_layer(policy)
        better = (c.seconds_per_prompt for c in self.judged.values() if c.num_tasks <= tasks)
        return min(self.worth_s, *better, inf)

    def split_otherwise(self, model: CostModel) -> None:
        """Judge the best so far with its layers split otherwise."""
        for leader in self.ranked()[:1]:
            self.judge(otherwise_split(model, leader.optimum, self.problem.workload.num_prompts))

    def climb(self, model: CostModel, tries: int) -> bool:
        """Judge some neighbours of the best so far; is one of them better?"""
        before_s, num_prompts = self.best_s, self.problem.workload.num_prompts
        most = before_s * (1 - _STEP)
        for leader in self.ranked()[:1]:
            fitting = Fitting(self.problem, self.schedule, leader.optimum.num_gpu_batches, self.needs)
            roomier = model.within(fitting.roomier(leader.optimum.program, leader.policy))
            for optimum in islice(neighbours(roomier, leader.optimum, num_prompts, most), tries):
                self.judge(optimum)
        return self.best_s < most

    def ranked(self) -> list[Candidate]:
        """The fastest first, but of those that are as good as equal the one with the fewest tasks."""
        ranked = sorted(self.judged.values(), key=lambda c: c.seconds_per_prompt)
        equal = [c for c in ranked if c.seconds_per_prompt <= self.worth_s]
        return [*sorted(equal, key=lambda c: c.num_tasks), *ranked[len(equal) :]]


def best_of_each_kind(search: Search) -> list[Optimum]:
    """The fastest first."""
    kinds = {kind_of(optimum.program): optimum for optimum in reversed(search.best.ranked())}
    return sorted(kinds.values(), key=lambda o: o.seconds_per_prompt)


def wider(best: Optimum, sizes: Sequence[int]) -> list[int]:
    """Two and four times as large, and what makes the same block of two to four micro-batches.

    Many small ones wait for each other more than the program believes.
    """
    size, n = best.program.gpu_batch_size, best.num_gpu_batches
    larger = [next(other for other in sizes if other >= times * size) for times in (2, 4) if sizes[-1] >= times * size]
    return sorted({*larger, *(size * n // fewer for fewer in (2, 3, 4) if fewer < n)})


def halfway(best: Optimum, sizes: Sequence[int]) -> list[int]:
    """The sizes half-way from the best to its two neighbours."""
    return between(best.program.gpu_batch_size, sizes)


def between(size: int, sizes: Sequence[int]) -> list[int]:
    """Half-way from a size to its neighbours.

    >>> between(24, [16, 24, 32])
    [20, 28]
    """
    at = sizes.index(size)
    near = [size, *sizes[max(0, at - 1) : at + 2]]
    return [(size + other) // 2 for other in near if abs(size - other) > 1]


def otherwise_split(model: CostModel, optimum: Optimum, num_prompts: int | None) -> Optimum | None:
    """The same block with its layers in two tasks instead of one, or the other way round; None where that is not to be.

    Halves take less memory, but attention on the host waits between them, of which the program knows nothing.
    """
    size, n, switches = optimum.program.gpu_batch_size, optimum.num_gpu_batches, optimum.program.switches
    wanted = {**switches, "sep_layer": not switches["sep_layer"]}
    programs = [p for p in model.programs(size) if p.switches == wanted and n <= p.most_batches]
    found = [found for p in programs if (found := solved(p, n, num_prompts)) is not None]
    return min(found, key=lambda o: o.seconds_per_prompt, default=None)


def judged(problem: Problem, optimum: Optimum, policy: Policy, schedule: Schedule, most_s: float) -> Candidate:
    """A proposal with its seconds a prompt, or some that are more than ``most_s``, as soon as that is sure.

    The phase that takes longer is simulated first, and the program's seconds are the least of the other.  The last
    block of a given number of prompts counts as a full one.
    """
    forecast = Forecast(typical(problem, policy), policy, schedule)
    prompts = problem.workload.num_prompts or policy.block_size
    blocks, seconds = ceil(prompts / policy.block_size), least_of_phases(optimum)
    for phase in sorted(PHASES, key=lambda phase: -seconds[phase]):
        seconds[phase] = forecast.seconds(phase)
        if sum(seconds.values()) * blocks / prompts > most_s:
            break
    return Candidate(optimum, policy, forecast, sum(seconds.values()) * blocks / prompts)


def least_of_phases(optimum: Optimum) -> dict[PhaseName, float]:
    """Seconds of a whole block's phases by the program."""
    seconds: dict[PhaseName, float] = dict.fromkeys(PHASES, 0.0)
    for phase in optimum.program.phases:
        least = phase.passes * phase.seconds(optimum.solution.shares, optimum.num_gpu_batches)
        seconds["prefill" if phase.name == "prefill" else "decode"] += least
    return seconds


def typical(problem: Problem, policy: Policy) -> Problem:
    """One typical block of the workload."""
    workload = problem.workload
    rows = workload.num_prompts and min(workload.num_prompts, policy.block_size)
    if not workload.prompt_lens and not workload.gen_lens:
        one = workload.model_copy(update={"num_prompts": rows})
    else:
        size = rows or policy.block_size
        one = Workload(prompt_lens=typical_lens(workload, size), gen_len=typical_gen_len(workload, size))
    return problem.model_copy(update={"workload": one})
