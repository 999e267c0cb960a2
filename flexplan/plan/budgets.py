"""Budgets: what is over them, and the largest micro-batch and block that they have room for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from flexplan.errors import InfeasiblePlan, UsageError
from flexplan.model import ModelShape, schedule_layers
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.schedule import Schedule
from flexplan.simulation import peak_bytes
from flexplan.units import format_size

_MOST = 1 << 12  # sequences of a micro-batch; more never pay
_MOST_STEPS = 100_000  # layers x micro-batches of a pass: some 600,000 tasks, seconds of checking
_MOST_PASSES = 1 << 22  # tokens x micro-batches of a block
SIZES = sorted({size for e in range(13) for size in (1 << e, 3 << e >> 1) if 1 <= size <= _MOST})  # 1, 2, 3, 4, 6, ...


def batch_sizes(problem: Problem) -> list[int]:
    """Micro-batches to try: no more sequences than there are prompts."""
    most = problem.workload.num_prompts or _MOST
    return [*(size for size in SIZES if size < most), min(most, _MOST)]


def block_fits(problem: Problem, policy: Policy, schedule: Schedule) -> bool:
    """Is every tier within its budget?"""
    need, budgets = peak_bytes(problem, policy, schedule), problem.budgets()
    return all(need[tier] <= budgets[tier] for tier in budgets)


def largest(policies: Callable[[int], Policy], choices: Sequence[int], problem: Problem, schedule: Schedule) -> int:
    """The largest of these ascending sizes whose policy fits; 0 where none does."""
    number = bisect_left(choices, True, key=lambda size: not block_fits(problem, policies(size), schedule))
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


def refuse_over_budget(
    need: Mapping[str, int],
    problem: Problem,
    smaller: Callable[[], tuple[int, int] | None] | None = None,
    blamed: Callable[[], tuple[str, str]] = lambda: ("", ""),
) -> None:
    """Raise InfeasiblePlan where a tier needs more than its budget; ``smaller`` finds a block that works.

    ``blamed``: of the prompts, what may be to blame and how that is mended, as ends of two sentences.
    """
    budgets = problem.budgets()
    over = tuple(tier for tier in budgets if need[tier] > budgets[tier])
    if over:
        given = {tier: getattr(problem.hardware, f"{tier}_bytes") for tier in over}
        asked = {tier: problem.budget_for(tier, need[tier]) for tier in over}
        what = "; ".join(f"{t} needs {format_size(asked[t])}, budget {format_size(given[t])}" for t in over)
        block = smaller() if smaller else None
        flags = " and ".join(f"--{tier}-mem" for tier in over)
        why, mended = blamed()
        raise InfeasiblePlan(
            "FP401",
            f"the policy does not fit: {what}{why}",
            fix=f"raise {flags}, or {_lower(over[0], block, smaller is not None)}{mended}",
            binding=over,
            smallest_budget_bytes={t: asked[t] if over == (t,) else None for t in budgets},
            smallest_together_bytes=asked if len(over) > 1 else {},
            block_that_works=block,
            shortage=what,
        )


def _lower(tier: str, block: tuple[int, int] | None, looked: bool) -> str:
    """The knob to turn down."""
    if block is not None:
        return f"use gpu_batch_size {block[0]} and num_gpu_batches {block[1]}, which fit"
    percent = {"gpu": "w_gpu_percent", "cpu": "w_cpu_percent"}.get(tier, "what is on disk")
    if looked:
        return f"lower {percent}: not even one sequence fits"
    return f"lower {'num_gpu_batches' if tier == 'cpu' else 'gpu_batch_size'} or {percent}"


def refuse_endless(model: ModelShape, policy: Policy, tokens: int) -> None:
    """Raise UsageError for a block that no machine runs, before it is laid out."""
    batches = policy.num_gpu_batches
    steps = batches * len(schedule_layers(model, policy.sep_layer))
    layers, passes = f"{batches} micro-batches over {model.num_layers} layers", batches * tokens
    for what, count, most, knobs in (
        (f"{layers} are {steps} steps a pass", steps, _MOST_STEPS, "num_gpu_batches"),
        (
            f"{batches} micro-batches of {tokens} new tokens are {passes} passes",
            passes,
            _MOST_PASSES,
            "num_gpu_batches, or --max-new-tokens (gen_len of a plan)",
        ),
    ):
        if count > most:
            raise UsageError("FP118", f"{what}, allowed {most}", fix=f"lower {knobs}")
