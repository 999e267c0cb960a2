"""A greedy planner: whatever fits on the fast tier goes there, first the cache, then activations, then weights."""

from __future__ import annotations

from collections.abc import Iterator

from flexplan.errors import InfeasiblePlan
from flexplan.plan import Plan
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.sandbox import schedule_of
from flexplan.simulation import peak_bytes

_BATCH_SIZES = (1, 4, 16, 64)
_STEP = 20  # percent


class GreedyPlanner:
    """For each micro-batch size the first placement that fits, best tier first; of these the fastest."""

    def __init__(self, schedule: str = "zigzag") -> None:
        self.schedule = schedule

    def plan(self, problem: Problem) -> Plan:
        """The fastest of a few plans; raises InfeasiblePlan where none fits."""
        sizes = [size for size in _BATCH_SIZES if size <= (problem.workload.num_prompts or size)]
        policies = [policy for size in sizes if (policy := self._first_that_fits(problem, size))]
        plans = [Plan.of(problem, policy, schedule=self.schedule, planner="greedy") for policy in policies]
        if not plans:
            raise self._refusal(problem)
        return max(plans, key=lambda plan: plan.prediction.tokens_per_s)

    def _first_that_fits(self, problem: Problem, gpu_batch_size: int) -> Policy | None:
        return next((p for p in placements(gpu_batch_size) if not self._too_small(problem, p)), None)

    def _too_small(self, problem: Problem, policy: Policy) -> tuple[str, ...]:
        """The tiers that a policy does not fit."""
        need, budgets = peak_bytes(problem, policy, schedule_of(self.schedule)), problem.budgets()
        return tuple(tier for tier in budgets if need[tier] > budgets[tier])

    def _refusal(self, problem: Problem) -> InfeasiblePlan:
        *_, last = placements(1)
        return InfeasiblePlan(
            "FP403",
            f"greedy finds no placement of {problem.model.name}",
            fix="ask another planner, or raise the budgets",
            binding=self._too_small(problem, last),
            smallest_budget_bytes=dict.fromkeys(problem.budgets()),
        )


def placements(gpu_batch_size: int) -> Iterator[Policy]:
    """From all on the gpu, step by step down to all on disk: first the weights make room, then the rest."""
    for cache, act in ((0, 0), (1, 0), (1, 1), (2, 1), (2, 2)):  # 0 on the gpu, 1 on the host, 2 on disk
        for below_gpu in range(0, 101, _STEP):
            for disk in range(0, below_gpu + 1, _STEP):
                yield Policy(
                    gpu_batch_size=gpu_batch_size,
                    num_gpu_batches=1,
                    w_gpu_percent=100.0 - below_gpu,
                    w_cpu_percent=float(below_gpu - disk),
                    cache_gpu_percent=100.0 * (cache == 0),
                    cache_cpu_percent=100.0 * (cache == 1),
                    act_gpu_percent=100.0 * (act == 0),
                    act_cpu_percent=100.0 * (act == 1),
                )
