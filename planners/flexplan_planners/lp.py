"""The linear-program planner: the paper's program over every setting of the switches, rounded and placed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import floor
from typing import Any

from flexplan.errors import InfeasiblePlan
from flexplan.plan import Plan
from flexplan.plugins import SCHEDULES, make
from flexplan.policy import Policy
from flexplan.prediction import Schedule, peak_bytes
from flexplan.problem import Problem
from flexplan_planners.duals import prices_of_policy
from flexplan_planners.infeasible import infeasible
from flexplan_planners.latency import within_latency
from flexplan_planners.lpcost import MOST_BATCHES, FlexplanCosts
from flexplan_planners.lpmemory import PERCENT_DECIMALS
from flexplan_planners.lpmodel import CostModel, Program, Shares, solve_program
from flexplan_planners.rounding import Optimum, optimise

_REPAIRS = 4  # a foreign schedule may need more memory than the program knows of


class LpPlanner:
    """Shares of all tensors by linear programming, judged by the busiest lane alone.

    ``cost_model`` is used instead of flexplan's own; ``host_attention`` and ``sep_layer`` say which settings
    of these switches are allowed, ``lossy`` holds the policy fields that change the tokens and may be set, with their
    values: ``{"compress_weight": True, "compress_cache": True, "attn_sparsity": 0.1}``.
    """

    def __init__(
        self,
        schedule: str = "zigzag",
        cost_model: CostModel | None = None,
        *,
        host_attention: Sequence[bool] = (True, False),
        sep_layer: Sequence[bool] = (False, True),
        lossy: Mapping[str, Any] | None = None,
    ) -> None:
        self.schedule = schedule
        self.cost_model = cost_model
        self.host_attention = tuple(host_attention)
        self.sep_layer = tuple(sep_layer)
        self.lossy = dict(lossy or {})

    def plan(self, problem: Problem) -> Plan:
        """The fastest policy by the program; raises InfeasiblePlan with numbers."""
        return within_latency(self._plan, problem)

    def _plan(self, problem: Problem) -> Plan:
        for optimum in self.optima(problem):
            policy = self.fitted(problem, optimum)
            if policy is not None:
                return Plan.of(problem, policy, schedule=self.schedule, planner="lp")
        raise self.refusal(problem)

    def shadow_prices(self, problem: Problem, policy: Policy) -> dict[str, float]:
        """For each tier the part of the time that a budget larger by a small part saves, over that part."""
        found = prices_of_policy(self.model(problem), policy)
        return dict(found.gain) if found else {}

    def optima(self, problem: Problem, spread: float = 0.0) -> list[Optimum]:
        """The fastest block, and what was met on the way to it; see `optimise`."""
        return optimise(self.model(problem), problem.workload.num_prompts, spread)

    def model(self, problem: Problem) -> CostModel:
        """The cost model; row by row, every micro-batch streams the weights for itself, so one is as good as many."""
        most = 1 if self.schedule == "rowwise" else MOST_BATCHES
        return self.cost_model or FlexplanCosts(
            problem,
            host_attention=self.host_attention,
            sep_layer=self.sep_layer,
            lossy=self.lossy,
            most_batches=most,
        )

    def refusal(self, problem: Problem) -> InfeasiblePlan:
        """What would have to grow for a plan to exist."""
        return infeasible(problem, self.model)

    def fitted(self, problem: Problem, optimum: Optimum) -> Policy | None:
        """The policy, placed: where it is over a budget, the program is solved again with that much less."""
        schedule: Schedule = make(SCHEDULES, self.schedule)
        program, shares, budgets = optimum.program, optimum.solution.shares, problem.budgets()
        for _ in range(_REPAIRS):
            policy = read_back(program, optimum.num_gpu_batches, shares)
            need = peak_bytes(problem, policy, schedule)
            over = {tier: need[tier] - budgets[tier] for tier in budgets}
            if max(over.values()) <= 0:
                return policy
            less = {tier: program.budgets[tier] - 1.1 * max(0, over[tier]) for tier in budgets}
            program = replace(program, budgets=less)
            solution = solve_program(program, optimum.num_gpu_batches) if min(less.values()) >= 0 else None
            if solution is None:
                return None
            shares = solution.shares
        return None


def read_back(program: Program, num_gpu_batches: int, shares: Shares) -> Policy:
    """The policy of a solution: percents of three decimals, rounded down on the faster tiers."""
    percents: dict[str, float] = {}
    for what in ("w", "cache", "act"):
        gpu, cpu = (_percent(shares[f"{what}_{tier}"]) for tier in ("gpu", "cpu"))
        if shares[f"{what}_disk"] < 10.0 ** -(PERCENT_DECIMALS + 2):
            cpu = _rest(gpu)
        percents |= {f"{what}_gpu_percent": gpu, f"{what}_cpu_percent": cpu}
    given: dict[str, Any] = {**percents, **program.switches}
    return Policy(program.gpu_batch_size, num_gpu_batches, **given)


def _percent(share: float) -> float:
    """A share in percent, rounded down; a solver's 1 may be a little less."""
    unit = 10.0**PERCENT_DECIMALS
    return min(100.0, floor(100 * share * unit + 1e-4) / unit)


def _rest(gpu: float) -> float:
    """What leaves nothing, not even 1e-14 of rounding, to the disk."""
    cpu = round(100 - gpu, PERCENT_DECIMALS)
    return cpu if 100 - gpu - cpu <= 0 else 100 - gpu
