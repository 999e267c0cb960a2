"""Objectives: does a plan keep the bounds of its objective, and what is the smallest memory with which one does?"""

from __future__ import annotations

from collections.abc import Callable

from flexplan.errors import InfeasiblePlan
from flexplan.graph import TIERS
from flexplan.plan.plan import Plan
from flexplan.problem import Problem
from flexplan.units import MiB, format_size, round_up

Solve = Callable[[Problem], Plan]  # raises InfeasiblePlan

_STEP = 32  # a budget is found to a part of so many


def meets_latency(plan: Plan) -> bool:
    """Is every block over within the objective's seconds?"""
    most = plan.problem.objective.max_latency_s
    return most is None or plan.prediction.block_s <= most


def refuse_late(plan: Plan) -> None:
    """Raise InfeasiblePlan where a block takes longer than the objective allows."""
    if not meets_latency(plan):
        took, most = plan.prediction.block_s, plan.problem.objective.max_latency_s
        raise InfeasiblePlan(
            "FP404",
            f"a block of {plan.policy.block_size} sequences takes {took:.4g} s, --max-latency allows {most:g}",
            fix="lower num_gpu_batches or gpu_batch_size, or raise --max-latency",
            binding=("latency",),
        )


def smallest_memory(solve: Solve, problem: Problem) -> Plan:
    """The plan that reaches the wanted throughput with the least memory: of the gpu, then the host, then the disk.

    Each tier is bisected over whole solves, down to a 32nd of what it needs; the plan's budgets are what was found.
    """
    wanted = problem.objective.min_tokens_per_s
    assert wanted is not None
    best = solve(problem)
    if best.prediction.tokens_per_s < wanted:
        raise _too_slow(best, wanted)
    for tier in TIERS:
        best = _least_of(tier, solve, best, wanted)
    return best


def _least_of(tier: str, solve: Solve, best: Plan, wanted: float) -> Plan:
    """Bisect one tier's budget, from nothing to what the plan so far uses of it."""
    best, low = _within_what_it_uses(tier, best), 0
    while _capacity(best, tier) - low > max(MiB, _capacity(best, tier) // _STEP):
        middle = round_up((low + _capacity(best, tier)) // 2, MiB)
        found = _fast_enough(solve, best.problem.with_budgets(**{tier: middle}), wanted)
        if found is None:
            low = middle
        else:
            best = _within_what_it_uses(tier, found)
    return best


def _fast_enough(solve: Solve, problem: Problem, wanted: float) -> Plan | None:
    try:
        found = solve(problem)
    except InfeasiblePlan:
        return None
    return found if found.prediction.tokens_per_s >= wanted else None


def _within_what_it_uses(tier: str, plan: Plan) -> Plan:
    """The same plan, the tier's budget cut to whole MiB of what it needs."""
    need = plan.prediction.peak_bytes[tier]
    capacity = round_up(plan.problem.budget_for(tier, need), MiB) if need else 0
    return plan.under(plan.problem.with_budgets(**{tier: min(capacity, _capacity(plan, tier))}))


def _capacity(plan: Plan, tier: str) -> int:
    capacity: int = getattr(plan.problem.hardware, f"{tier}_bytes")
    return capacity


def _too_slow(best: Plan, wanted: float) -> InfeasiblePlan:
    hardware, fastest = best.problem.hardware, best.prediction.tokens_per_s
    have = ", ".join(f"{tier} {format_size(getattr(hardware, f'{tier}_bytes'))}" for tier in TIERS)
    return InfeasiblePlan(
        "FP406",
        f"the fastest plan with {have} makes {fastest:.4g} tokens per second, --min-throughput asks for {wanted:g}",
        fix=f"ask for at most {fastest:.3f}, or raise --gpu-mem or --cpu-mem",
        binding=("throughput",),
    )
