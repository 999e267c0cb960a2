"""Whole numbers around the linear program: the best gpu_batch_size, switches and num_gpu_batches, by branch and bound.

Every program is first solved for a free number of micro-batches with empty rings, a lower bound that is
convex in u = 1/n.  Only where it is below the best answer so far is n rounded: from the bound's optimum
outwards, each n solved exactly, until the bound itself is above the best answer.  Nothing better is left out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, inf

from flexplan_planners.lpmodel import CostModel, Program, Solution, optimistic, solve_program

Kind = frozenset[str]

_EQUAL = 1e-9  # bounds this close to the best answer are not worth another program


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best block of one program; ``seconds_per_prompt`` counts every prompt of the workload once."""

    program: Program
    num_gpu_batches: int
    solution: Solution
    seconds_per_prompt: float


class Best:
    """The best answer so far of each kind; a kind drops out when it is ``spread`` slower than the fastest."""

    def __init__(self, spread: float) -> None:
        self.spread = spread
        self.found: list[Optimum] = []
        self.seconds: dict[Kind, float] = {}

    def limit(self, kind: Kind) -> float:
        """What a bound must be below to be worth a look."""
        fastest = min(self.seconds.values(), default=inf)
        return min(self.seconds.get(kind, inf), fastest * (1 + self.spread)) * (1 - _EQUAL)

    def add(self, optimum: Optimum) -> None:
        """Count an answer."""
        self.found.append(optimum)
        kind = kind_of(optimum.program)
        self.seconds[kind] = min(self.seconds.get(kind, inf), optimum.seconds_per_prompt)

    def ranked(self) -> list[Optimum]:
        """Fastest first; ties in the order in which they were found."""
        return sorted(self.found, key=lambda o: o.seconds_per_prompt)


def optimise(model: CostModel, num_prompts: int | None = None, spread: float = 0.0) -> list[Optimum]:
    """The fastest block comes first; empty where nothing fits.

    The others are what was met on the way to it, and to the fastest of each other kind of program, unless
    that is more than ``spread`` slower.
    """
    best = Best(spread)
    for bound, programs in sorted(_bounded(model), key=lambda pair: pair[0]):
        kind = kind_of(programs[0])
        if bound >= best.limit(kind):
            continue
        for child, free in sorted(_each_bounded(programs), key=lambda pair: _per_prompt(*pair)):
            if _per_prompt(child, free) >= best.limit(kind):
                break
            optimum = _whole(child, free, num_prompts, best.limit(kind))
            if optimum is not None:
                best.add(optimum)
    return best.ranked()


def wider(model: CostModel, best: Optimum, num_prompts: int | None) -> list[Optimum]:
    """The best blocks of micro-batches two and four times as large, however much slower the program says they are.

    The program knows no pipelines: many small micro-batches wait for each other more than it believes.
    """
    found = []
    for times in (2, 4):
        sizes = [size for size in model.batch_sizes() if size >= times * best.program.gpu_batch_size][:1]
        alike = [p for size in sizes for p in model.programs(size) if kind_of(p) == kind_of(best.program)]
        bounded = sorted(_each_bounded(alike), key=lambda pair: _per_prompt(*pair))[:1]
        whole = [_whole(program, free, num_prompts, inf) for program, free in bounded]
        found += [optimum for optimum in whole if optimum is not None]
    return found


def kind_of(program: Program) -> Kind:
    """Programs of one kind use the same lanes; they differ so little that one bound serves them all."""
    lanes = frozenset(lane for phase in program.phases for lane in phase.rows)
    return lanes & {"h2d_weights", "h2d_cache", "cpu"}


def _bounded(model: CostModel) -> Iterator[tuple[float, Sequence[Program]]]:
    """The programs of every batch size in groups that share a bound; a size that does not fit ends the list."""
    for size in model.batch_sizes():
        fits = False
        for programs in _groups(model.programs(size)):
            merged = optimistic(programs) if len(programs) > 1 else programs[0]
            free = solve_program(merged)
            if free is not None:
                fits = True
                yield _per_prompt(merged, free), programs
        if not fits:
            return


def _groups(programs: Sequence[Program]) -> list[list[Program]]:
    groups: dict[Kind, list[Program]] = {}
    for program in programs:
        groups.setdefault(kind_of(program), []).append(program)
    return list(groups.values())


def _each_bounded(programs: Sequence[Program]) -> Iterator[tuple[Program, Solution]]:
    for program in programs:
        free = solve_program(program)
        if free is not None:
            yield program, free


def _per_prompt(program: Program, solution: Solution) -> float:
    return solution.seconds / program.gpu_batch_size


# -- num_gpu_batches ---------------------------------------------------------------------------------------------
def _whole(program: Program, free: Solution, num_prompts: int | None, limit: float) -> Optimum | None:
    """The best whole number of micro-batches, if it is below the limit."""
    choices = batch_counts(program, num_prompts)
    middle = bisect_right(choices, free.batches)
    best: Optimum | None = None
    for way in (choices[middle:], choices[:middle][::-1]):
        for nearest, n in enumerate(way):
            below = min(limit, best.seconds_per_prompt if best else inf)
            if nearest and not _may_be_below(program, n, below):
                break
            solution = solve_program(program, n)
            if solution is None:
                continue
            seconds = _of_workload(program, n, solution, num_prompts)
            if seconds < below:
                best = Optimum(program, n, solution, seconds)
    return best


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


def _may_be_below(program: Program, n: int, limit: float) -> bool:
    bound = solve_program(program, n, bound=True)
    return bound is not None and _per_prompt(program, bound) < limit * (1 - _EQUAL)


def _of_workload(program: Program, n: int, solution: Solution, num_prompts: int | None) -> float:
    """Seconds a prompt; the last block of a given number of prompts counts as a full one."""
    block = n * program.gpu_batch_size
    if num_prompts is None:
        return solution.seconds * n / block
    return solution.seconds * n * ceil(num_prompts / block) / num_prompts
