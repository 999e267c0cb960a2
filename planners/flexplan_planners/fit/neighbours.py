"""What lies next to an answer: other micro-batches, more or fewer of them, other switches, whole shares.

The program ranks blocks, but the simulator judges them; so from the best that was simulated, one goes on to what the
program, a lower bound, cannot rule out.  Duals of the answer bound all neighbours at once; few are solved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from flexplan_planners.fit.branch_and_bound import Optimum, is_late, per_prompt
from flexplan_planners.lp import ACT, CACHE, Bounds, CostModel, Program, Shares, prices_of, solve_program

_FACTORS = (1 / 2, 2 / 3, 4 / 5, 9 / 10, 11 / 10, 5 / 4, 3 / 2, 2.0)
_NOTHING = 1e-6
_MANY_ROWS = 4096  # of a micro-batch: more never pay


@dataclass(frozen=True, slots=True)
class Way:
    """One way to go: programs, and numbers of micro-batches of each."""

    programs: Sequence[Program]
    counts: Sequence[Sequence[int]]


def neighbours(model: CostModel, best: Optimum, num_prompts: int | None, most: float) -> Iterator[Optimum]:
    """Of each way to go the most promising first, then the second of each, and so on.

    Only what takes less than ``most`` seconds a prompt by the program.
    """
    searches = [_promising(way, best, num_prompts, most) for way in _ways(model, best, num_prompts)]
    searches.append(_whole_shares(best, num_prompts, most))
    while searches:
        going = []
        for search in searches:
            found = next(search, None)
            if found is not None:
                going.append(search)
                yield found
        searches = going


def _ways(model: CostModel, best: Optimum, num_prompts: int | None) -> Iterator[Way]:
    size, n = best.program.gpu_batch_size, best.num_gpu_batches
    here = model.programs(size)
    alike = model.alike(size, best.program)
    fewer, more = _counts(n, [f for f in _FACTORS if f < 1], -1), _counts(n, [f for f in _FACTORS if f > 1], 1)
    others = [p for p in here if (p.switches, p.absent) != (best.program.switches, best.program.absent)]
    yield Way(others, [[n]] * len(others))
    for factors in ([f for f in _FACTORS if f > 1], [f for f in _FACTORS if f < 1]):  # larger, then smaller ones
        sizes = {size + 1 if factors[0] > 1 else size - 1, *(round(size * f) for f in factors)} - {size}
        sizes = {s for s in sizes if 1 <= s <= min(num_prompts or _MANY_ROWS, _MANY_ROWS)}
        programs = [p for s in sorted(sizes) for p in model.alike(s, best.program)]
        yield Way(programs, [_counts_at(n, size, p.gpu_batch_size) for p in programs])
    for counts in (fewer, more):
        yield Way(alike, [counts] * len(alike))


def _counts(n: int, factors: Sequence[float], step: int) -> list[int]:
    return sorted({max(1, n + step), *(max(1, round(n * f)) for f in factors)} - {n})


def _counts_at(n: int, size: int, other: int) -> list[int]:
    """As many micro-batches, or as many prompts, or what lies between and a little beyond."""
    whole = n * size / other
    return sorted(
        {max(1, count) for count in (n, int(whole), round(whole), round((n + whole) / 2), round(0.9 * whole))}
    )


def _promising(way: Way, best: Optimum, num_prompts: int | None, most: float) -> Iterator[Optimum]:
    """The blocks of a way, the fastest first; one is solved where none that is known can be faster."""
    counts = [[n for n in ns if n <= p.most_batches] for p, ns in zip(way.programs, way.counts, strict=True)]
    blocks = [(p, n) for p, ns in zip(way.programs, counts, strict=True) for n in ns]
    if not blocks:
        return
    bounds = Bounds(way.programs, counts)
    batches = np.array([float(per_prompt(p.gpu_batch_size, n, num_prompts)) for p, n in blocks])
    seconds = bounds.of(prices_of(best.program, best.solution)) * batches
    known: dict[int, Optimum] = {}
    while (least := float(seconds.min())) < most:
        at = int(seconds.argmin())
        if at in known:
            seconds[at] = inf
            yield known[at]
            continue
        found = solved(*blocks[at], num_prompts)
        if found is None:
            seconds[at] = inf
            continue
        known[at] = found
        seconds = np.maximum(seconds, bounds.of(prices_of(found.program, found.solution)) * batches)
        seconds[at] = max(least, found.seconds_per_prompt)


def _whole_shares(best: Optimum, num_prompts: int | None, most: float) -> Iterator[Optimum]:
    """The same block with all activations, or all of the cache, in host memory: what is cut in two moves twice."""
    for names in (ACT, CACHE):
        on_host: Mapping[str, float] = {names[0]: 0.0, names[1]: 1.0, names[2]: 0.0}
        cut = best.solution.shares[names[1]] < 1 - _NOTHING
        if cut and names[1] not in best.program.absent:
            found = solved(best.program, best.num_gpu_batches, num_prompts, on_host)
            if found is not None and found.seconds_per_prompt < most:
                yield found


def solved(program: Program, n: int, num_prompts: int | None, pinned: Shares | None = None) -> Optimum | None:
    """The best shares of a block, some of them given; None where nothing fits, or in time."""
    solution = solve_program(program, n, pinned)
    if solution is None or is_late(program, n, solution):
        return None
    seconds = solution.seconds * float(per_prompt(program.gpu_batch_size, n, num_prompts))
    return Optimum(program, n, solution, seconds, pinned)
