"""Whole numbers around the linear program: the best gpu_batch_size, switches and num_gpu_batches, by branch and bound.

Every block (a program and a number of micro-batches) has a lower bound.  The block with the lowest is
solved, and its duals raise the bounds of all others, until no bound is below the best answer.  A dozen
programs of ten thousand are solved, and nothing better is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import ceil, inf
from typing import Any

import numpy as np

from flexplan_planners.lp import (
    Bounds,
    CostModel,
    Prices,
    Program,
    Shares,
    Solution,
    least_shortage,
    prices_of,
    prices_of_shortage,
    solve_program,
)

Kind = frozenset[str]

_EQUAL = 1e-9  # bounds this close to the best answer are not worth another program
_NEAR = 1e-3  # and for a kind that is not the fastest
_FITS = 1e-6  # of a budget: what the solver's tolerance may let through
_FEW_TIERS = 3


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best block of one program, some of its shares ``pinned``; ``seconds_per_prompt`` counts every prompt once."""

    program: Program
    num_gpu_batches: int
    solution: Solution
    seconds_per_prompt: float
    pinned: Shares | None = None


class Best:
    """The best answer so far of each kind; a kind drops out when it is ``spread`` slower than the fastest.

    From the start, only what takes less than ``most`` seconds a prompt counts.
    """

    def __init__(self, spread: float, most: float = inf) -> None:
        self.spread = spread
        self.most = most
        self.found: list[Optimum] = []
        self.seconds: dict[Kind, float] = {}

    def limit(self, kind: Kind) -> float:
        """What a bound must be below to be worth a look."""
        fastest = min([self.most, *self.seconds.values()])
        own = min(self.seconds.get(kind, inf), fastest * (1 + self.spread)) * (1 - _NEAR)
        return max(fastest * (1 - _EQUAL), own)

    def add(self, optimum: Optimum) -> None:
        """Count an answer."""
        self.found.append(optimum)
        kind = kind_of(optimum.program)
        self.seconds[kind] = min(self.seconds.get(kind, inf), optimum.seconds_per_prompt)

    def ranked(self) -> list[Optimum]:
        """Fastest first; ties in the order in which they were found."""
        return sorted(self.found, key=lambda o: o.seconds_per_prompt)


class Front:
    """The blocks of some programs, their bounds in seconds a prompt, and which of them are ``open``."""

    def __init__(self, programs: Sequence[Program], num_prompts: int | None) -> None:
        self.programs = programs
        self.kinds = [kind_of(program) for program in programs]
        self.bounds = Bounds(programs, [batch_counts(program, num_prompts) for program in programs])
        sizes = np.array([program.gpu_batch_size for program in programs])
        self.per_prompt = per_prompt(sizes[self.bounds.program], self.bounds.batches, num_prompts)
        self.seconds = np.zeros(len(self.per_prompt))
        self.open = np.ones(len(self.per_prompt), bool)
        self._close_what_never_fits()

    def _close_what_never_fits(self) -> None:
        """What needs more of some tiers than they have together; of many tiers each is asked alone, and all."""
        budgets = self.programs[0].budgets
        for num in range(1, len(budgets) + 1) if len(budgets) <= _FEW_TIERS else (1, len(budgets)):
            for tiers in combinations(budgets, num):
                self.close({f"bytes_{tier}": 1.0 for tier in tiers})

    def close(self, prices: Prices) -> None:
        """The blocks that need more bytes than there are, at these prices of bytes."""
        worth = sum(prices.get(f"bytes_{tier}", 0.0) * nbytes for tier, nbytes in self.programs[0].budgets.items())
        self.open &= self.bounds.of(prices) <= _FITS * worth

    def raise_bounds(self, prices: Prices) -> None:
        """By the prices of a program that was solved; a block whose bound is later than is allowed is closed."""
        seconds, latest = self.bounds.of(prices), self.programs[0].max_seconds
        self.seconds = np.maximum(self.seconds, seconds * self.per_prompt)
        if latest is not None:
            self.open &= seconds * self.bounds.batches <= latest * (1 + _FITS)

    def lowest(self, best: Best) -> tuple[float, int] | None:
        """The lowest bound that is worth a look, and its block."""
        limit = {kind: best.limit(kind) for kind in set(self.kinds)}
        limits = np.array([limit[kind] for kind in self.kinds])[self.bounds.program]
        self._forget(~self.open | (self.seconds >= limits))
        if not len(self.seconds):
            return None
        block = int(np.argmin(self.seconds))
        return float(self.seconds[block]), block

    def forget_closed(self) -> None:
        """Blocks that are closed stay so."""
        self._forget(~self.open)

    def _forget(self, done: Any) -> None:
        """Blocks that are closed or too slow stay so: limits only fall, and bounds only rise."""
        if done.any():
            self.bounds.keep(~done)
            self.per_prompt, self.seconds, self.open = (x[~done] for x in (self.per_prompt, self.seconds, self.open))

    def block(self, block: int) -> tuple[Program, int]:
        """Its program, and its number of micro-batches."""
        return self.programs[self.bounds.program[block]], int(self.bounds.batches[block])

    def solve(self, block: int) -> Optimum | None:
        """The block's best shares; where nothing fits, larger blocks of the same program are closed, too."""
        self.open[block] = False
        program, n = self.block(block)
        solution = solve_program(program, n)
        if solution is None or is_late(program, n, solution):
            same = self.bounds.program == self.bounds.program[block]
            self.open &= ~(same & (self.bounds.batches >= n))
        if solution is None:
            return None
        return Optimum(program, n, solution, solution.seconds * float(self.per_prompt[block]))


def is_late(program: Program, n: int, solution: Solution) -> bool:
    """Does the quickest block of this size take longer than is allowed?"""
    return program.max_seconds is not None and solution.seconds * n > program.max_seconds


class Search:
    """The fronts of all batch sizes that were asked for, and the prices of all programs that were solved."""

    def __init__(self, num_prompts: int | None = None, spread: float = 0.0) -> None:
        self.num_prompts = num_prompts
        self.best = Best(spread)
        self.prices: list[Prices] = []
        self.shortages: list[Prices] = []
        self.settings: dict[Kind, list[Program]] = {}  # of each kind, a program of every setting of the switches

    def explore(self, model: CostModel, sizes: Iterable[int]) -> None:
        """Add these batch sizes, up to the first that has no room, and solve what may be better than the best."""
        fronts = []
        for size in sizes:
            programs = model.programs(size)
            if not programs:
                break
            fronts.append(self._front(programs))
            self._note_settings(fronts[-1])
        self._solve(fronts, self.best)

    def _note_settings(self, front: Front) -> None:
        """Smaller sizes come first and have more settings: what has room at any size has it there."""
        for program, kind in zip(front.programs, front.kinds, strict=True) if not self.settings else ():
            self.settings.setdefault(kind, []).append(program)

    def alike(self, model: CostModel, size: int, kind: Kind, most: float) -> Optimum | None:
        """The best block of this size and kind, if it takes less than ``most`` seconds a prompt."""
        programs = [program for like in self.settings.get(kind, ()) for program in model.alike(size, like)]
        best = Best(0.0, most)
        if programs:
            self._solve([self._front(programs)], best)
        return next(iter(best.ranked()), None)

    def _front(self, programs: Sequence[Program]) -> Front:
        front = Front(programs, self.num_prompts)
        front.forget_closed()
        for prices in self.prices:
            front.raise_bounds(prices)
        for prices in self.shortages:
            front.close(prices)
        return front

    def _solve(self, fronts: Sequence[Front], best: Best) -> None:
        """Until no front has a block that is worth a look; as bounds only rise, one that has none is done."""
        while found := [(lowest, front) for front in fronts if (lowest := front.lowest(best))]:
            (_, block), chosen = min(found, key=lambda pair: pair[0][0])
            fronts = [front for _, front in found]
            optimum = chosen.solve(block)
            if optimum is None:
                self._learn_shortage(fronts, *chosen.block(block))
                continue
            if not is_late(optimum.program, optimum.num_gpu_batches, optimum.solution):
                best.add(optimum)
            self.prices.append(prices_of(optimum.program, optimum.solution))
            for front in fronts:
                front.raise_bounds(self.prices[-1])

    def _learn_shortage(self, fronts: Sequence[Front], program: Program, n: int) -> None:
        """Close every block for which there is as little room as for this one, by the same proof."""
        answer = least_shortage(program, n)
        if answer.optimal:
            self.shortages.append(prices_of_shortage(program, answer))
            for front in fronts:
                front.close(self.shortages[-1])


def with_room(programs: Sequence[Program], n: int) -> Iterator[tuple[Program, Solution]]:
    """The programs of which n micro-batches have room, each solved; those that have none close others."""
    front = Front([replace(program, most_batches=n) for program in programs], n * programs[0].gpu_batch_size)
    front.forget_closed()
    while front.open.any():
        block = int(front.open.argmax())
        front.open[block] = False
        program, _ = front.block(block)
        solution = solve_program(program, n)
        if solution is not None:
            yield program, solution
        elif (answer := least_shortage(program, n)).optimal:
            front.close(prices_of_shortage(program, answer))


def optimise(model: CostModel, num_prompts: int | None = None, spread: float = 0.0) -> list[Optimum]:
    """The fastest block comes first; empty where nothing fits.

    The others are what was met on the way to it, and to the fastest of each other kind of program, unless
    that is more than ``spread`` slower.
    """
    search = Search(num_prompts, spread)
    search.explore(model, model.batch_sizes())
    return search.best.ranked()


def kind_of(program: Program) -> Kind:
    """Programs of one kind use the same lanes, the disk for nothing, weights or more, and send experts alike."""
    lanes = {lane for phase in program.phases for work in phase.works for lane in work}
    disk = {"w_disk", "cache_disk", "act_disk"} - program.absent
    use = {"more_disk"} if disk - {"w_disk"} else disk
    alike = {"on demand"} if program.switches.get("experts_on_demand") else set[str]()
    return frozenset(lanes & {"h2d_weights", "h2d_cache", "cpu"} | use | alike)


# -- num_gpu_batches ---------------------------------------------------------------------------------------------
def batch_counts(program: Program, num_prompts: int | None) -> list[int]:
    """The numbers of micro-batches to choose from.

    For a given number of prompts those that spread them evenly over the fewest blocks.

    >>> batch_counts(Program(4, (), {}, {}, 32), 50)
    [1, 2, 3, 4, 5, 7, 13]
    """
    counts = range(1, program.most_batches + 1)
    if num_prompts is None:
        return list(counts)
    needed = ceil(num_prompts / program.gpu_batch_size)
    return sorted({ceil(needed / ceil(needed / n)) for n in counts})


def per_prompt(sizes: Any, batches: Any, num_prompts: int | None) -> Any:
    """Micro-batches a prompt; the last block of a given number of prompts counts as a full one."""
    if num_prompts is None:
        return 1 / sizes
    return batches * np.ceil(num_prompts / (sizes * batches)) / num_prompts
