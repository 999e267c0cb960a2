"""A block of the linear program, fitted to what the placement really needs.

The program's rows of memory are bounds: a fixed amount stands for all that a layout rounds, and a third-party
schedule may need more.  So the block is placed, what the rows were off there is credited to the budgets, and
the program is solved again, until no tier is short and no room is left that would make it faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import ceil, floor, inf

from flexplan.model import weight_tensors
from flexplan.placement import BUFFER_ALIGN
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.schedule import Schedule
from flexplan.simulation import peak_bytes
from flexplan_planners.fit.branch_and_bound import with_room
from flexplan_planners.lp import (
    ACT,
    CACHE,
    ONE,
    WEIGHTS,
    Program,
    Shares,
    Solution,
    read_back,
    shares_of,
    solve_program,
)

_ROUNDS = 6
_WORTH = 5e-4  # of the seconds: less is not worth another placement
_HALVINGS = 7
_NOTHING = 1e-9

Budgets = Mapping[str, float]
Needs = dict[Policy, Mapping[str, int]]


class Fitting:
    """Blocks of ``n`` micro-batches on one problem under one schedule; ``best`` is the fastest policy so far.

    ``needs`` keeps the bytes of policies: they are the same whatever the budgets.
    """

    def __init__(self, problem: Problem, schedule: Schedule, n: int, needs: Needs | None = None) -> None:
        self.problem = problem
        self.schedule = schedule
        self.n = n
        self.needs: Needs = {} if needs is None else needs
        self.real = problem.budgets()
        self.best_s = inf
        self.best: Policy | None = None
        self.any_will_do = False  # or is the fastest wanted

    # -- one program ---------------------------------------------------------------------------------------------
    def fit(
        self, program: Program, shares: Shares, known: Policy | None = None, pinned: Shares | None = None
    ) -> Policy | None:
        """The fastest policy that fits as the placement counts, starting from a solution; or None.

        Where a policy is ``known`` to fit, no budget is lowered below what the rows count for it: rounding, which puts
        another policy over a budget by a page, would leave no room at all.
        """
        given: Budgets = program.budgets
        least = counted(program, self.n, known) if known else dict.fromkeys(self.real, 0.0)
        best_s, best = inf, None
        for _ in range(_ROUNDS):
            policy = read_back(program, self.n, shares)
            need = self._need(policy)
            over = {tier: max(0, need[tier] - most) for tier, most in self.real.items()}
            if not any(over.values()) and (seconds := program.seconds(shares_of(policy), self.n)) < best_s:
                best_s, best = seconds, policy
            if best and self.any_will_do:
                break
            if given.keys() != self.real.keys():  # a cost model with rows of its own
                break
            if any(over.values()):
                given = {t: max(given[t] - 1.1 * over[t], min(given[t], least[t])) for t in self.real}
            else:
                given = self.roomier(program, policy)
            solution = _solve(program, given, self.n, pinned)
            if solution is None or solution.seconds * self.n > best_s * (1 - _WORTH):
                break
            shares = solution.shares
        return best

    def _fit_anyhow(self, program: Program, shares: Shares) -> Policy | None:
        """`fit`, from the budgets as they are, or credited by what the rows count too much for these shares."""
        policy = read_back(program, self.n, shares)
        plain = {tier: float(most) for tier, most in self.real.items()}
        for budgets in (plain, self.roomier(program, policy)):
            solution = _solve(program, budgets, self.n)
            if solution is not None:
                fitted = self.fit(replace(program, budgets=budgets), solution.shares)
                if fitted is not None:
                    return fitted
        return None

    # -- all programs --------------------------------------------------------------------------------------------
    def fastest(self, programs: Sequence[Program]) -> Policy | None:
        """The fastest policy over all settings of the switches; None where none fits."""
        self._from_the_solutions(programs)
        self._from_the_corners(programs)
        self._from_the_best(programs)
        self._in_whole_grains(programs)
        self._a_little_more(programs)
        return self.best

    def any_fits(self, programs: Sequence[Program]) -> bool:
        """Is there a policy that `fastest` would find?"""
        self.any_will_do = True
        self._from_the_corners(programs)
        if self.best is None:
            self._from_the_solutions(programs)
        return self.best is not None

    def _from_the_solutions(self, programs: Sequence[Program]) -> None:
        """Settings whose rows are over a budget by no more than they count too much are tried as well."""
        bounds = with_room([replace(program, budgets=self._most(program)) for program in programs], self.n)
        for program, bound in bounds if self.any_will_do else sorted(bounds, key=lambda pair: pair[1].seconds):
            if bound.seconds * self.n >= self.best_s:
                break
            self._keep(program, self._fit_anyhow(program, bound.shares))
            if self.best and self.any_will_do:
                break

    def _most(self, program: Program) -> Budgets:
        """The budgets, and all that the rows count whatever the shares: they count no more too much."""
        return {
            tier: most + row.block.get(ONE, 0.0) + self.n * row.batch.get(ONE, 0.0) if most else 0.0
            for tier, most in self.real.items()
            for row in (program.bytes[tier],)
        }

    def _from_the_corners(self, programs: Sequence[Program]) -> None:
        """Each kind of tensor on one tier alone, where nothing is rounded."""
        for program in programs:
            for shares in _corners(program):
                if any(_weights_on(tier, program, shares) > most for tier, most in self.real.items()):
                    continue
                if self.any_will_do or program.seconds(shares, self.n) < self.best_s:
                    policy = read_back(program, self.n, shares)
                    if self._fits(policy):
                        self._keep(program, policy)
                        if self.any_will_do:
                            return

    def _from_the_best(self, programs: Sequence[Program]) -> None:
        """Every program once more, its budgets credited by what its rows count too much for the best policy so far."""
        for program in programs if self.best else ():
            assert self.best is not None
            budgets = self.roomier(program, self.best)
            solution = _solve(program, budgets, self.n)
            if solution is not None and solution.seconds * self.n < self.best_s * (1 - _WORTH):
                self._keep(program, self.fit(replace(program, budgets=budgets), solution.shares, self.best))

    def _in_whole_grains(self, programs: Sequence[Program]) -> None:
        """Again with whole grains of the cache on the gpu in every layer and micro-batch, and the rest for weights.

        What is rounded up somewhere makes the rings larger, and what is rounded down leaves bytes unused.
        """
        policy = self.best
        for program in programs if policy else ():
            assert policy is not None
            for share in _whole_shares(self.problem, program, policy):
                moved = {CACHE[0]: share, CACHE[1]: 1 - share, CACHE[2]: 0.0}
                at = read_back(program, self.n, {**shares_of(policy), **moved})
                budgets = self.roomier(program, at)
                solution = _solve(program, budgets, self.n, moved)
                if solution is not None and solution.seconds * self.n < self.best_s:
                    pinned = replace(program, budgets=budgets)
                    self._keep(program, self.fit(pinned, solution.shares, policy, moved))

    def _a_little_more(self, programs: Sequence[Program]) -> None:
        """Parts of a grain of the cache, or of the weights' pages, more on the gpu while that fits.

        Layers and micro-batches round a share in turn, and what one of them rounds down leaves room that no row counts.
        """
        grain, pages = 1 / _grains(self.problem, programs[0]), _rounded(self.problem)
        units = ((CACHE, grain), (WEIGHTS, pages)) if self.best else ()
        for program in programs:
            for (names, unit), halved in product(units, range(_HALVINGS)):
                assert self.best is not None
                moved = _more_on_gpu(names, shares_of(self.best), unit / 2**halved)
                if moved is None or not _describes(program, self.best):
                    continue
                if program.seconds(moved, self.n) > self.best_s * (1 - _WORTH):
                    continue
                policy = read_back(program, self.n, moved)
                if self._fits(policy):
                    self._keep(program, policy)

    # -- what is asked of a policy -------------------------------------------------------------------------------
    def roomier(self, program: Program, policy: Policy) -> Budgets:
        """The budgets, larger by what the rows count too much for a policy."""
        need, rows = self._need(policy), counted(program, self.n, policy)
        return {tier: most + max(0.0, rows[tier] - need[tier]) if most else 0.0 for tier, most in self.real.items()}

    def _keep(self, program: Program, policy: Policy | None) -> None:
        """The best so far is this one, if it is faster."""
        if policy is not None:
            seconds = program.seconds(shares_of(policy), self.n)
            if seconds < self.best_s:
                self.best_s, self.best = seconds, policy

    def _need(self, policy: Policy) -> Mapping[str, int]:
        """Bytes of each tier as the placement counts."""
        if policy not in self.needs:
            self.needs[policy] = peak_bytes(self.problem, policy, self.schedule)
        return self.needs[policy]

    def _fits(self, policy: Policy) -> bool:
        need = self._need(policy)
        return all(need[tier] <= most for tier, most in self.real.items())


def _more_on_gpu(names: Sequence[str], shares: Shares, step: float) -> Shares | None:
    """The shares with ``step`` of a kind taken from its slowest tier; None where all of it is on the gpu."""
    donor = next((name for name in (names[2], names[1]) if shares[name] > 0), None)
    if donor is None:
        return None
    step = min(step, shares[donor])
    return {**shares, names[0]: shares[names[0]] + step, donor: shares[donor] - step}


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


def _weights_on(tier: str, program: Program, shares: Shares) -> float:
    """Bytes of the weights at home on a tier, where all of them or none are: nothing is rounded then."""
    row, name = program.bytes.get(tier), f"w_{tier}"
    return row.block.get(name, 0.0) * shares[name] if row else 0.0


def counted(program: Program, n: int, policy: Policy) -> Budgets:
    """Bytes of each tier as the rows count them."""
    shares = shares_of(policy)
    return {tier: row.value(shares, n) for tier, row in program.bytes.items()}


def _solve(program: Program, budgets: Budgets, n: int, pinned: Shares | None = None) -> Solution | None:
    return solve_program(replace(program, budgets=budgets), n, pinned) if min(budgets.values()) >= 0 else None
