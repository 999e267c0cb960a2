"""Lower bounds of many programs at once, from the prices that one of them was solved with.

Lagrange: whatever second and byte are priced at, the least over all shares of ::

    sum over lanes of price * seconds  +  sum over tiers of price * (bytes - budget)

is at most the optimum of a program, where the prices of the lanes of a phase sum to its passes.  The least
stands where each whole thing is where it costs least, so it takes no solver.  Prices that are the duals of
one program give that program's own optimum, and nearly those of programs like it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flexplan_planners.lp.rows import ACT, CACHE, ONE, SHARES, WEIGHTS, Program, Row, Solution, objective_unit
from flexplan_planners.lp.solver import Answer

_Work = tuple[str, Mapping[str, Row]]  # rows, and what the names of their constraints begin with
Prices = Mapping[str, float]  # by constraint: seconds a second of a lane, or seconds a byte of a tier

_COLUMNS = [
    {name: at for at, name in enumerate(names, start)}
    for start, names in ((0, (ONE, *WEIGHTS)), (4, (ONE, *CACHE, *ACT)), (11, (*CACHE, *ACT)))
]  # of Row.block, batch, once
_WIDTH = 17


def prices_of(program: Program, solution: Solution) -> Prices:
    """The duals of a program's constraints, in seconds."""
    duals = solution.answer.duals
    found: dict[str, float] = {}
    for phase in program.phases:
        lanes = {name: max(0.0, duals.get(name, 0.0)) for name in (f"{phase.name}_{lane}" for lane in phase.rows)}
        whole = sum(lanes.values())
        found |= {name: phase.passes * dual / whole for name, dual in lanes.items() if dual}
    for tier, nbytes in program.budgets.items():
        found[f"bytes_{tier}"] = max(0.0, -duals.get(f"bytes_{tier}", 0.0)) / max(nbytes, 1.0) * objective_unit(program)
    return found


def prices_of_shortage(program: Program, answer: Answer) -> Prices:
    """Prices of bytes at which a block that has no room costs more than its budgets are worth, and so may others."""
    return {
        f"bytes_{tier}": max(0.0, -answer.duals.get(f"bytes_{tier}", 0.0)) / max(nbytes, 1.0)
        for tier, nbytes in program.budgets.items()
    }


class Bounds:
    """Bounds of programs, for the numbers of micro-batches ``counts`` of each.

    Programs share most of what their passes do, so each thing is summed once and then added up by program.
    """

    def __init__(self, programs: Sequence[Program], counts: Sequence[Sequence[int]]) -> None:
        self.program = np.repeat(np.arange(len(programs)), [len(batches) for batches in counts])
        self.batches = np.concatenate([np.asarray(batches) for batches in counts])
        self.absent = np.array([[np.inf if name in p.absent else 0.0 for name in SHARES] for p in programs])
        self._stack([_works(program) for program in programs])

    def _stack(self, works: Sequence[Sequence[_Work]]) -> None:
        """The rows of all works, one below the other, each work once; and which works each program has."""
        known = {(name, id(rows)): (name, rows) for found in works for name, rows in found}
        number = {key: n for n, key in enumerate(known, 1)}  # work 0 is nothing
        lines, self.starts, self.places = [[0.0] * _WIDTH], [0], dict[str, list[int]]()
        for prefix, rows in known.values():
            self.starts.append(len(lines))
            for name, row in rows.items():
                self.places.setdefault(f"{prefix}_{name}", []).append(len(lines))
                lines.append(_terms(row))
        most = max(map(len, works))
        numbers = [[number[name, id(rows)] for name, rows in found] for found in works]
        self.works = np.array([[*found, *[0] * (most - len(found))] for found in numbers])
        self.lines = np.array(lines)

    def keep(self, wanted: Any) -> None:
        """Only some of the blocks from now on: an entry each, True for those."""
        self.program, self.batches = self.program[wanted], self.batches[wanted]

    def of(self, prices: Prices) -> Any:
        """Seconds of a micro-batch, one a program and count; above 0 for prices of bytes alone where nothing fits."""
        weights = np.zeros(len(self.lines))
        for name in prices.keys() & self.places.keys():
            weights[self.places[name]] = prices[name]
        sums = np.add.reduceat(self.lines * weights[:, None], self.starts)[self.works].sum(1)
        weights = sums[:, 0] + (sums[:, 1:4] + self.absent[:, :3]).min(1)
        each, once = self._by_share(sums[:, 5:11] + self.absent[:, 3:]), self._by_share(sums[:, 11:])
        moving = (each + once / self.batches).reshape(2, 3, len(self.program)).min(1).sum(0)
        return sums[self.program, 4] + moving + weights[self.program] / self.batches

    def _by_share(self, sums: Any) -> Any:
        """A line a share, a column a block: numpy takes five times as long to find the least of three in a row."""
        return np.take(sums.T, self.program, axis=1)


def _works(program: Program) -> list[_Work]:
    """Everything that the passes do, by phase, and the bytes beyond the budgets; a budget counts once a block."""
    over = {tier: row.plus(Row({ONE: -program.budgets[tier]})) for tier, row in program.bytes.items()}
    return [*((phase.name, work) for phase in program.phases for work in phase.works if work), ("bytes", over)]


def _terms(row: Row) -> list[float]:
    """The terms of a row, each at its place."""
    line = [0.0] * _WIDTH
    for columns, terms in zip(_COLUMNS, (row.block, row.batch, row.once), strict=True):
        for name, value in terms.items():
            line[columns[name]] = value
    return line
