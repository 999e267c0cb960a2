"""Every policy of a 10 % grid for one block shape: its bytes by the real placement, its seconds by the program's rows.

What the arenas of a tier need is a sum: what the weights need there, the cache, the activations, and the rest.
So the real placement is asked for each share alone, and the grid of all three is their sums (up to 287,496
policies), held against the budgets at once.  The best policy found is placed as a whole and checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from typing import Any

import numpy as np
from flexplan_planners.lp import ACT, CACHE, ONE, WEIGHTS, Program, shares_of

from flexplan.graph import TIERS
from flexplan.placement import Layout, Placement, place_cache
from flexplan.placement.weights import place_weights
from flexplan.policy import Policy, full_block
from flexplan.problem import Problem
from flexplan.testing import policy_with

WORDS = {"w": WEIGHTS, "cache": CACHE, "act": ACT}
THINGS = tuple(WORDS.values())
STEP = 10  # percent
HOME = (100, 0, 0)

Triple = tuple[int, int, int]


@cache
def triples() -> list[Triple]:
    """(gpu, cpu, disk) in percent: 66 of them."""
    whole = range(0, 101, STEP)
    return [(gpu, cpu, 100 - gpu - cpu) for gpu, cpu in product(whole, whole) if gpu + cpu <= 100]


def policy_of(program: Program, n: int, shares: Sequence[Triple]) -> Policy:
    """The policy of a point of the grid, under the program's switches."""
    w, cache, act = (triple[:2] for triple in shares)
    return policy_with(program.gpu_batch_size, n, w=w, cache=cache, act=act, **program.switches)


def seconds_of(programs: Sequence[Program], policy: Policy, placed: Placement) -> float:
    """Seconds of a block, of the shares that the placement gives it, by the cheapest program that describes it."""
    asked = shares_of(policy)
    given = {
        name: s / 100 for what, names in WORDS.items() for name, s in zip(names, placed.realised()[what], strict=True)
    }
    return min(
        (
            program.seconds(given, policy.num_gpu_batches)
            for program in programs
            if all(asked[name] < 1e-9 for name in program.absent)
            and all(getattr(policy, name) == value for name, value in program.switches.items())
        ),
        default=float("inf"),
    )


def placement_of(problem: Problem, policy: Policy) -> Placement:
    """The placement that sizes the runtime's arenas."""
    return Placement.of(problem.model, policy, full_block(problem.workload, policy))


class Needs:
    """Bytes of each tier of one thing at every triple, the others at home on the GPU: one placement each.

    A placement whose weights (or cache) are those of another one is not laid out again.
    """

    def __init__(self, problem: Problem, program: Program, n: int) -> None:
        self.problem = problem
        self.program = program
        self.n = n
        policy = policy_of(program, n, [HOME] * 3)
        self.block = full_block(problem.workload, policy)
        self.weights = place_weights(problem.model, policy)
        self.cache = place_cache(problem.model, policy, self.block)

    @cached_property
    def tables(self) -> list[dict[Triple, Any]]:
        """For each thing, triple -> bytes by tier, and the three shares that the placement gives it."""
        return [{triple: self._at(thing, triple) for triple in self._triples} for thing in range(3)]

    @property
    def _triples(self) -> list[Triple]:
        disk = self.problem.hardware.disk_bytes > 0
        return [triple for triple in triples() if disk or not triple[2]]

    def _at(self, thing: int, triple: Triple) -> Any:
        policy = policy_of(self.program, self.n, [triple if at == thing else HOME for at in range(3)])
        model, block = self.problem.model, self.block
        weights = place_weights(model, policy) if thing == 0 else self.weights
        cache = place_cache(model, policy, block) if thing == 1 else self.cache
        placed = Placement(model, policy, block, len(block.batches), weights, cache)
        realised = placed.realised()[[*WORDS][thing]]
        return np.array([*Layout.of(placed).tier_bytes().values(), *(share / 100 for share in realised)])


@dataclass(frozen=True)
class Best:
    """The fastest policy of a grid."""

    policy: Policy
    seconds: float


class Grid:
    """All policies of one problem, block shape and list of programs (the settings of the switches)."""

    def __init__(self, problem: Problem, programs: Sequence[Program], n: int) -> None:
        self.problem = problem
        self.programs = programs
        self.n = n
        self.known: dict[tuple[Any, ...], Needs] = {}

    def best(self) -> Best | None:
        """The fastest policy that fits; None where none does."""
        found = [best for program in self.programs for best in self._best_of(program)]
        return min(found, key=lambda best: best.seconds, default=None)

    def _best_of(self, program: Program) -> Iterator[Best]:
        axes = [self._axis(program, names) for names in THINGS]
        tables = self._needs(program).tables
        points = [np.array([table[t] for t in axis]) for table, axis in zip(tables, axes, strict=True)]
        fits = self._fits([p[:, :3] for p in points], tables[0][HOME][:3])
        if not fits.any():
            return
        seconds = np.where(fits, self._seconds(program, [p[:, 3:] for p in points]), np.inf)
        at = np.unravel_index(np.argmin(seconds), seconds.shape)
        policy = policy_of(program, self.n, [axis[i] for axis, i in zip(axes, at, strict=True)])
        yield Best(policy, float(seconds[at]))

    def _axis(self, program: Program, names: Sequence[str]) -> list[Triple]:
        """The triples of one thing that this setting of the switches allows."""
        return [
            t for t in triples() if all(not s or name not in program.absent for s, name in zip(t, names, strict=True))
        ]

    # -- bytes -----------------------------------------------------------------------------------------------------
    def _fits(self, needs: Sequence[Any], none: Any) -> Any:
        """A cube of booleans: within all budgets.  bytes(w, c, a) = w alone + c alone + a alone - 2 * none."""
        budgets = self.problem.budgets()
        fits = np.ones([len(need) for need in needs], bool)
        for t, tier in enumerate(TIERS):
            w, c, a = (need[:, t] for need in needs)
            fits &= w[:, None, None] + c[:, None] + a <= budgets[tier] + 2 * none[t]
        return fits

    def _needs(self, program: Program) -> Needs:
        """Programs with the same switches need the same."""
        switches = tuple(sorted(program.switches.items()))
        if switches not in self.known:
            self.known[switches] = Needs(self.problem, program, self.n)
        return self.known[switches]

    # -- seconds ---------------------------------------------------------------------------------------------------
    def _seconds(self, program: Program, shares: Sequence[Any]) -> Any:
        """A cube of seconds of a block: for each phase the largest of its rows."""
        total = np.zeros([len(share) for share in shares])
        for phase in program.phases:
            lines = [self._line(row, shares) for row in phase.rows.values()]
            slowest = np.full(total.shape, 0.0)
            for constant, (w, c, a) in undominated(lines):
                np.maximum(slowest, (w + constant)[:, None, None] + (c[:, None] + a), out=slowest)
            total += phase.passes * slowest
        return total

    def _line(self, row: Any, shares: Sequence[Any]) -> tuple[float, list[Any]]:
        """A row as its constant and what each thing adds at each of its points."""
        n, terms = self.n, {}
        for part, times in ((row.block, 1), (row.batch, n), (row.once, 1)):
            for name, c in part.items():
                terms[name] = terms.get(name, 0.0) + times * c
        adds = [share @ [terms.get(name, 0.0) for name in names] for share, names in zip(shares, THINGS, strict=True)]
        return terms.get(ONE, 0.0), adds


def undominated(lines: list[tuple[float, list[Any]]]) -> list[tuple[float, list[Any]]]:
    """The rows that can be the largest anywhere: most lanes are below another one everywhere."""
    kept: list[tuple[float, list[Any]]] = []
    for line in sorted(lines, key=lambda line: -line[0] - sum(add.max() for add in line[1])):
        above = (k for k in kept if k[0] >= line[0] and all((a >= b).all() for a, b in zip(k[1], line[1], strict=True)))
        if next(above, None) is None:
            kept.append(line)
    return kept
