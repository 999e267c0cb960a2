"""Baselines: what people do without a planner, each with its prediction or the reason why it does not fit.

Every baseline is one micro-batch a block, of the size at which its bound is the fastest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from flexplan.errors import InfeasiblePlan, PolicyError
from flexplan.model import layer_tensors, schedule_layers, weight_tensors
from flexplan.placement import place_cache
from flexplan.plan.budgets import batch_sizes, largest
from flexplan.plan.objectives import meets_latency
from flexplan.plan.plan import Plan
from flexplan.policy import Policy, fill_block, lossy_fields
from flexplan.problem import Problem, Workload
from flexplan.problem.ragged import typical_gen_len, typical_lens
from flexplan.sandbox import schedule_of
from flexplan.schedule import Schedule
from flexplan.simulation import peak_bytes, rough_bound_of

_DECIMALS = 3  # of a percent


@dataclass(frozen=True, slots=True)
class Baseline:
    """A way to place a model that needs no planner: a policy for every size of a micro-batch."""

    name: str
    says: str
    schedule: str
    policy: Callable[[Problem, int], Policy]


@dataclass(frozen=True, slots=True)
class BaselineResult:
    """A baseline on a problem: its plan, or why there is none."""

    name: str
    says: str
    plan: Plan | None
    why_not: str = ""


# -- the baselines -----------------------------------------------------------------------------------------------
def all_resident(problem: Problem, size: int) -> Policy:
    """Weights, cache and activations on the gpu."""
    return Policy(size, 1, sep_layer=False)


def all_on_host(problem: Problem, size: int) -> Policy:
    """Weights, cache and activations in host memory, attention on the host."""
    return Policy(
        size,
        1,
        w_gpu_percent=0,
        w_cpu_percent=100,
        cache_gpu_percent=0,
        cache_cpu_percent=100,
        act_gpu_percent=0,
        act_cpu_percent=100,
        sep_layer=False,
        cpu_cache_compute=True,
    )


def four_bit(problem: Problem, size: int) -> Policy:
    """All on the gpu, the weights in 4 bits."""
    return replace(all_resident(problem, size), compress_weight=True)


def whole_layers(problem: Problem, size: int) -> Policy:
    """Whole layers on the gpu in order until it is full, then on the host, then on disk; cache on the gpu.

    What ``device_map="auto"`` does: room for the largest layer is left free on the gpu, copies are not
    page-locked, and nothing is copied while something computes.  The schedule cuts every layer at the same share
    where that keeps whole layers apart; a pass moves the same bytes.
    """
    plain = Policy(size, 1, w_gpu_percent=0, w_cpu_percent=100, overlap=False, sep_layer=False, pin_weight=False)
    free = _free_bytes(problem, plain)
    packed = _packed(problem, free)
    total = sum(packed)
    gpu = int(100 * packed[0] / total * 10**_DECIMALS) / 10**_DECIMALS
    cpu = int(100 * packed[1] / total * 10**_DECIMALS) / 10**_DECIMALS if packed[2] else 100 - gpu
    return replace(plain, w_gpu_percent=gpu, w_cpu_percent=cpu)


BASELINES = (
    Baseline("all resident", "everything on the GPU", "zigzag", all_resident),
    Baseline("all on the host", "everything in host memory, attention there too", "zigzag", all_on_host),
    Baseline(
        'device_map="auto"', "whole layers on the GPU until it is full, the others streamed", "rowwise", whole_layers
    ),
    Baseline("4-bit to fit", "4-bit weights, everything on the GPU", "zigzag", four_bit),
)


@cache
def _schedule(name: str) -> Schedule:
    """Schedules keep nothing between calls, and looking them up takes as long as a bound."""
    return schedule_of(name)


def _free_bytes(problem: Problem, streaming: Policy) -> tuple[int, int]:
    """Bytes of the gpu and the host that are left for weights beside all else."""
    need, budgets = peak_bytes(problem, streaming, _schedule("rowwise")), problem.budgets()
    on_host = sum(t.nbytes for t in weight_tensors(problem.model))
    return budgets["gpu"] - need["gpu"], budgets["cpu"] - (need["cpu"] - on_host)


def _packed(problem: Problem, free: tuple[int, int]) -> tuple[int, int, int]:
    """Bytes of whole layers, in order, on each tier: the first that has room, never going back."""
    layers = [sum(t.nbytes for t in layer_tensors(problem.model, j)) for j in schedule_layers(problem.model, False)]
    table = sum(t.nbytes for t in weight_tensors(problem.model)) - sum(layers)
    packed, tier = [0, 0, 0], 0
    for nbytes in (table, *layers):
        while tier < 2 and packed[tier] + nbytes > free[tier]:
            tier += 1
        packed[tier] += nbytes
    gpu, cpu, disk = packed
    return gpu, cpu, disk


# -- against a plan ----------------------------------------------------------------------------------------------
def baseline_results(problem: Problem) -> list[BaselineResult]:
    """Every baseline on this problem."""
    return [baseline_result(baseline, problem) for baseline in BASELINES]


def baseline_result(baseline: Baseline, problem: Problem) -> BaselineResult:
    """One baseline at its best size, or why it cannot be."""
    try:
        policy = _at_its_best(baseline, problem)
        plan = Plan.of(problem, policy, schedule=baseline.schedule, planner="manual")
    except InfeasiblePlan as error:
        return BaselineResult(baseline.name, baseline.says, None, error.shortage)
    except PolicyError as error:
        return BaselineResult(baseline.name, baseline.says, None, error.message)
    return BaselineResult(baseline.name, baseline.says, plan)


def faster_baseline(plan: Plan) -> BaselineResult | None:
    """The baseline that is predicted to be faster than a plan, if there is one; no token is changed by it.

    Bounds come first: what cannot win with all memory for its block, or at its best block, is not simulated.
    """
    winner, fastest = None, plan.prediction.tokens_per_s
    for baseline in BASELINES:
        if not _could_win(baseline, plan):
            continue
        policy = _at_its_best(baseline, plan.problem)
        if _at_most(plan.problem, policy, baseline.schedule) <= fastest:
            continue
        found = baseline_result(baseline, plan.problem)
        if found.plan and meets_latency(found.plan) and found.plan.prediction.tokens_per_s > fastest:
            winner, fastest = found, found.plan.prediction.tokens_per_s
    return winner


def _at_its_best(baseline: Baseline, problem: Problem) -> Policy:
    """The policy of the size with the fastest bound; of one sequence where nothing fits."""

    def policy(size: int) -> Policy:
        return baseline.policy(problem, size)

    choices, one = batch_sizes(problem), policy(1)
    most = max(1, largest(policy, choices, problem, _schedule(baseline.schedule)))
    if policy(most) == replace(one, gpu_batch_size=most):
        return policy(most)  # with the same shares, more sequences are never slower
    found = [policy(size) for size in choices if size <= most]
    return max(found, key=lambda p: _at_most(problem, p, baseline.schedule))


def _at_most(problem: Problem, policy: Policy, schedule: str) -> float:
    """Tokens a second by the bound of a full block."""
    rows = min(policy.block_size, problem.workload.num_prompts or policy.block_size)
    work = problem.workload
    part = problem.with_most_tokens(typical_gen_len(work, rows))
    bound = rough_bound_of(part, policy, _schedule(schedule), typical_lens(work, rows))
    mean = sum(work.gen_lens) / len(work.gen_lens) if work.gen_lens else work.gen_len
    return rows * mean / bound.total_s


def _could_win(baseline: Baseline, plan: Plan) -> bool:
    """Would it be faster if caches were all that a tier holds beside the weights?"""
    small = baseline.policy(plan.problem, 1)
    if lossy_fields(small).keys() - lossy_fields(plan.policy).keys():
        return False
    most = _most_sequences(plan.problem, small)
    if most < 1:
        return False
    widest = replace(small, gpu_batch_size=most)
    return _at_most(plan.problem, widest, baseline.schedule) > plan.prediction.tokens_per_s


def _most_sequences(problem: Problem, policy: Policy) -> int:
    """Sequences whose caches fit beside the weights, if all are as long as the shortest."""
    s, work = problem.model, problem.workload
    tier = "gpu" if policy.cache_gpu_percent else "cpu"
    share = policy.w_gpu_percent if tier == "gpu" else policy.w_cpu_percent
    weights = share / 100 * sum(t.nbytes for t in weight_tensors(s, policy.weight_packing(s.bytes_per_element)))
    shortest = fill_block(0, (_shortest(work),), work.gen_len, 1)
    sequence = sum(row[0].payload(tier) for row in place_cache(s, policy, shortest))
    return min(batch_sizes(problem)[-1], int((problem.budgets()[tier] - weights) // sequence))


def _shortest(work: Workload) -> int:
    return min(work.prompt_lens, default=work.prompt_len)
