"""Block sizes: the largest micro-batch and the largest block that a placement has room for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace

from flexplan.policy.policy import Policy
from flexplan.problem.problem import Problem
from flexplan.simulation.prediction import Schedule, peak_bytes

_MOST = 1 << 12  # sequences of a micro-batch; more never pay
SIZES = sorted({size for e in range(13) for size in (1 << e, 3 << e >> 1) if 1 <= size <= _MOST})  # 1, 2, 3, 4, 6, ...


def sizes(problem: Problem) -> list[int]:
    """Micro-batches to try: no more sequences than there are prompts."""
    most = problem.workload.num_prompts or _MOST
    return [*(size for size in SIZES if size < most), min(most, _MOST)]


def fits(problem: Problem, policy: Policy, schedule: Schedule) -> bool:
    """Is every tier within its budget?"""
    need, budgets = peak_bytes(problem, policy, schedule), problem.budgets()
    return all(need[tier] <= budgets[tier] for tier in budgets)


def largest(policies: Callable[[int], Policy], choices: Sequence[int], problem: Problem, schedule: Schedule) -> int:
    """The largest of these ascending sizes whose policy fits; 0 where none does."""
    number = bisect_left(choices, True, key=lambda size: not fits(problem, policies(size), schedule))
    return choices[number - 1] if number else 0


def largest_block(problem: Problem, policy: Policy, schedule: Schedule) -> tuple[int, int] | None:
    """(gpu_batch_size, num_gpu_batches) at most as asked that fit: fewer micro-batches first, then smaller ones."""

    def of_batches(n: int) -> Policy:
        return replace(policy, num_gpu_batches=n)

    def of_size(size: int) -> Policy:
        return replace(policy, gpu_batch_size=size, num_gpu_batches=1)

    batches = largest(of_batches, range(1, policy.num_gpu_batches + 1), problem, schedule)
    if batches:
        return policy.gpu_batch_size, batches
    size = largest(of_size, range(1, policy.gpu_batch_size + 1), problem, schedule)
    return (size, 1) if size else None
