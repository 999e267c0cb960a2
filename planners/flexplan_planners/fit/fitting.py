"""A block of the linear program, fitted to what the placement really needs.

The program's rows of memory are bounds: a fixed amount stands for all that a layout rounds, and a foreign
schedule may need more.  So the block is placed, what the rows were off there is credited to the budgets, and
the program is solved again, until no tier is short and no room is left that would make it faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import ceil, floor, inf

from flexplan.model.tensors import weight_tensors
from flexplan.placement.layout import BUFFER_ALIGN
from flexplan.policy.policy import Policy
from flexplan.problem.problem import Problem
from flexplan.schedule.protocol import Schedule
from flexplan.simulation.prediction import peak_bytes
from flexplan.units import MiB
from flexplan_planners.lp.rows import ACT, CACHE, WEIGHTS, Program, Shares, Solution, solve_program
from flexplan_planners.lp.shares import read_back, shares_of

_ROUNDS = 6
_WORTH = 5e-4  # of the seconds: less is not worth another placement
_HALVINGS = 7
_NOTHING = 1e-9
_MOST_CREDIT = 0.25  # of a budget, and 4 MiB: rows are never further off

Budgets = Mapping[str, float]
Found = tuple[float, Policy | None]  # seconds of a block
_NONE: Found = (inf, None)


def _seconds(found: Found) -> float:
    return found[0]


def fit(
    problem: Problem,
    schedule: Schedule,
    program: Program,
    n: int,
    shares: Shares,
    known: Policy | None = None,
    pinned: Shares | None = None,
) -> Policy | None:
    """The fastest policy of n micro-batches that fits as the placement counts, starting from a solution; or None.

    Where a policy is ``known`` to fit, no budget is lowered below what the rows count for it: rounding, which puts
    another policy over a budget by a page, would leave no room at all.
    """
    real = problem.budgets()
    given: Budgets = program.budgets
    least = counted(program, n, known) if known else dict.fromkeys(real, 0.0)
    best = _NONE
    for _ in range(_ROUNDS):
        policy = read_back(program, n, shares)
        need = peak_bytes(problem, policy, schedule)
        over = {tier: max(0, need[tier] - real[tier]) for tier in real}
        if not any(over.values()):
            best = min(best, (program.seconds(shares_of(policy), n), policy), key=_seconds)
        if given.keys() != real.keys():  # a cost model with rows of its own
            break
        if any(over.values()):
            given = {tier: max(given[tier] - 1.1 * over[tier], min(given[tier], least[tier])) for tier in real}
        else:
            given = credited(real, program, n, policy, need)
        solution = _solve(program, given, n, pinned)
        if solution is None or solution.seconds * n > best[0] * (1 - _WORTH):
            break
        shares = solution.shares
    return best[1]


def fastest(problem: Problem, schedule: Schedule, programs: Sequence[Program], n: int) -> Policy | None:
    """The fastest policy of one block shape over all settings of the switches; None where none fits.

    Settings whose rows are over a budget by no more than they count too much are tried as well.
    """
    real = problem.budgets()
    roomy = {tier: most * (1 + _MOST_CREDIT) + 4 * MiB if most else 0.0 for tier, most in real.items()}
    bounds = [(program, s) for program in programs if (s := _solve(program, roomy, n)) is not None]
    best = _NONE
    for program, bound in sorted(bounds, key=lambda pair: pair[1].seconds):
        if bound.seconds * n >= best[0]:
            break
        policy = _fitted_anyhow(problem, schedule, program, n, bound.shares)
        if policy is not None:
            best = min(best, (program.seconds(shares_of(policy), n), policy), key=_seconds)
    best = _of_corners(problem, schedule, programs, n, best)
    best = _from_there(problem, schedule, programs, n, best)
    best = _in_whole_grains(problem, schedule, programs, n, best)
    return _a_little_more(problem, schedule, programs, n, best)[1]


def _of_corners(problem: Problem, schedule: Schedule, programs: Sequence[Program], n: int, best: Found) -> Found:
    """The fastest that fits with each kind of tensor on one tier alone, where nothing is rounded, if it is faster."""
    for program in programs:
        for shares in _corners(program):
            seconds = program.seconds(shares, n)
            if seconds < best[0]:
                policy = read_back(program, n, shares)
                if _fits(problem, schedule, policy):
                    best = seconds, policy
    return best


def _from_there(problem: Problem, schedule: Schedule, programs: Sequence[Program], n: int, best: Found) -> Found:
    """Every program once more, its budgets credited by what its rows count too much for the best policy so far."""
    for program in programs if best[1] else ():
        assert best[1] is not None
        need = peak_bytes(problem, best[1], schedule)
        budgets = credited(problem.budgets(), program, n, best[1], need)
        solution = _solve(program, budgets, n)
        if solution is not None and solution.seconds * n < best[0] * (1 - _WORTH):
            fitted = fit(problem, schedule, replace(program, budgets=budgets), n, solution.shares, best[1])
            if fitted is not None:
                best = min(best, (program.seconds(shares_of(fitted), n), fitted), key=_seconds)
    return best


def _in_whole_grains(problem: Problem, schedule: Schedule, programs: Sequence[Program], n: int, best: Found) -> Found:
    """Again with whole grains of the cache on the gpu in every layer and micro-batch, and the rest of the gpu's bytes
    for weights: what is rounded up somewhere makes the rings larger, and what is rounded down leaves bytes unused.
    """
    policy = best[1]
    for program in programs if policy else ():
        assert policy is not None
        for share in _whole_shares(problem, program, policy):
            moved = {CACHE[0]: share, CACHE[1]: 1 - share, CACHE[2]: 0.0}
            at = read_back(program, n, {**shares_of(policy), **moved})
            budgets = credited(problem.budgets(), program, n, at, peak_bytes(problem, at, schedule))
            solution = _solve(program, budgets, n, moved)
            if solution is not None and solution.seconds * n < best[0]:
                pinned = replace(program, budgets=budgets)
                fitted = fit(problem, schedule, pinned, n, solution.shares, policy, moved)
                if fitted is not None:
                    best = min(best, (program.seconds(shares_of(fitted), n), fitted), key=_seconds)
    return best


def _a_little_more(problem: Problem, schedule: Schedule, programs: Sequence[Program], n: int, best: Found) -> Found:
    """Parts of a grain of the cache, or of the weights' pages, more on the gpu while that fits.

    Layers and micro-batches round a share in turn, and what one of them rounds down leaves room that no row counts.
    """
    units = ((CACHE, 1 / _grains(problem, programs[0])), (WEIGHTS, _rounded(problem))) if best[1] else ()
    for program in programs:
        for (names, unit), halved in product(units, range(_HALVINGS)):
            assert best[1] is not None
            moved = _more_on_gpu(names, shares_of(best[1]), unit / 2**halved)
            if moved is None or not _describes(program, best[1]) or program.seconds(moved, n) > best[0] * (1 - _WORTH):
                continue
            policy = read_back(program, n, moved)
            if _fits(problem, schedule, policy):
                best = min(best, (program.seconds(shares_of(policy), n), policy), key=_seconds)
    return best


def _more_on_gpu(names: Sequence[str], shares: Shares, step: float) -> Shares | None:
    """The shares with ``step`` of a kind taken from its slowest tier; None where all of it is on the gpu."""
    donor = next((name for name in (names[2], names[1]) if shares[name] > 0), None)
    if donor is None:
        return None
    step = min(step, shares[donor])
    return {**shares, names[0]: shares[names[0]] + step, donor: shares[donor] - step}


def _fits(problem: Problem, schedule: Schedule, policy: Policy) -> bool:
    """As the placement counts."""
    real, need = problem.budgets(), peak_bytes(problem, policy, schedule)
    return all(need[tier] <= real[tier] for tier in real)


def _describes(program: Program, policy: Policy) -> bool:
    shares = shares_of(policy)
    fixed = all(getattr(policy, name) == value for name, value in program.switches.items())
    return fixed and all(shares[name] < _NOTHING for name in program.absent)


def _grains(problem: Problem, program: Program) -> int:
    """Of a layer and micro-batch."""
    return program.gpu_batch_size * problem.model.num_kv_heads


def _rounded(problem: Problem) -> float:
    """The share of all weights that pages may round: at home and on the way, of both halves of each layer."""
    pages = 2 * (2 * problem.model.num_layers + 3)
    return pages * BUFFER_ALIGN / sum(t.nbytes for t in weight_tensors(problem.model))


def _whole_shares(problem: Problem, program: Program, policy: Policy) -> list[float]:
    """The shares on the gpu around a policy's that are whole grains of a micro-batch and layer."""
    grains = _grains(problem, program)
    at = policy.cache_gpu_percent / 100 * grains
    if CACHE[1] in program.absent or not 0 < at < grains or policy.shares("cache")[2]:
        return []
    return [count / grains for count in {floor(at), ceil(at)}]


def _corners(program: Program) -> Iterator[Shares]:
    homes = [[name for name in names if name not in program.absent] for names in (WEIGHTS, CACHE, ACT)]
    for chosen in product(*homes):
        yield {name: float(name in chosen) for names in (WEIGHTS, CACHE, ACT) for name in names}


def _fitted_anyhow(problem: Problem, schedule: Schedule, program: Program, n: int, shares: Shares) -> Policy | None:
    """`fit`, from the budgets as they are, or credited by what the rows count too much for these shares."""
    real = problem.budgets()
    policy = read_back(program, n, shares)
    more = credited(real, program, n, policy, peak_bytes(problem, policy, schedule))
    for budgets in ({tier: float(most) for tier, most in real.items()}, more):
        solution = _solve(program, budgets, n)
        if solution is not None:
            fitted = fit(problem, schedule, replace(program, budgets=budgets), n, solution.shares)
            if fitted is not None:
                return fitted
    return None


def credited(real: Mapping[str, int], program: Program, n: int, policy: Policy, need: Mapping[str, int]) -> Budgets:
    """The budgets, larger by what the rows count too much for a policy."""
    off = {tier: nbytes - need[tier] for tier, nbytes in counted(program, n, policy).items()}
    return {tier: most + max(0.0, off[tier]) if most else 0.0 for tier, most in real.items()}


def counted(program: Program, n: int, policy: Policy) -> Budgets:
    """Bytes of each tier as the rows count them."""
    shares = shares_of(policy)
    return {tier: row.value(shares, n) for tier, row in program.bytes.items()}


def _solve(program: Program, budgets: Budgets, n: int, pinned: Shares | None = None) -> Solution | None:
    return solve_program(replace(program, budgets=budgets), n, pinned) if min(budgets.values()) >= 0 else None
