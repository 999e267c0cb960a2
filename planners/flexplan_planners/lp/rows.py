"""The linear program of the paper: shares of weights, cache and activations that minimise the time per prompt.

For one ``gpu_batch_size``, over a block of n micro-batches::

    minimise    sum over phases of  passes * seconds of a pass   /  (n * gpu_batch_size)
    such that   seconds of a pass  >=  seconds of each lane and each resource in that pass
                bytes of a tier    <=  its budget
                w_gpu + w_cpu + w_disk  =  cache_gpu + cache_cpu + cache_disk  =  act_gpu + act_cpu + act_disk  =  1

Every quantity is a `Row`: what the weights need once a block, and caches and activations once a micro-batch.
For a free n the objective is linear-fractional.  Divided by n (Charnes and Cooper: u = 1/n, and the
weights' shares times u) the program is linear again, cache and activation shares come out as themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from flexplan.graph import TIERS
from flexplan_planners.lp.solver import Answer, Constraint, minimise

ONE = "one"  # the constant among the terms
INVERSE = "u"  # 1 / num_gpu_batches
SHORTAGE = "shortage"  # what a block needs beyond the budgets, as a part of them
WEIGHTS, CACHE, ACT = (tuple(f"{what}_{tier}" for tier in TIERS) for what in ("w", "cache", "act"))
SHARES = (*WEIGHTS, *CACHE, *ACT)

Terms = Mapping[str, float]
Shares = Mapping[str, float]

_SCALE = 1e4  # of the objective, so that even ties are far above the solver's tolerances
_TIE = 1e-7  # of the work on all lanes, far below the objective


@dataclass(frozen=True, slots=True)
class Row:
    """An affine quantity: seconds of a lane in a pass, or bytes of a tier; no coefficient is negative.

    ``block`` (weights and ONE) counts once a block, ``batch`` (cache, activations and ONE) once a
    micro-batch, ``once`` (cache and activations) once a block: rings that hold one micro-batch at a time.
    """

    block: Terms = field(default_factory=dict)
    batch: Terms = field(default_factory=dict)
    once: Terms = field(default_factory=dict)

    def value(self, shares: Shares, n: int) -> float:
        """The quantity for these shares and n micro-batches."""
        at = {**shares, ONE: 1.0}
        block, batch, once = (
            sum(c * at[name] for name, c in terms.items()) for terms in (self.block, self.batch, self.once)
        )
        return block + n * batch + once

    def plus(self, other: Row) -> Row:
        """Both."""
        return Row(_plus(self.block, other.block), _plus(self.batch, other.batch), _plus(self.once, other.once))

    def least(self, absent: frozenset[str]) -> float:
        """At most the quantity of any shares of one micro-batch: each whole thing where it counts least."""
        parts = ((self.block, WEIGHTS), (self.batch, CACHE), (self.batch, ACT))
        cheapest = (min(terms.get(name, 0.0) for name in names if name not in absent) for terms, names in parts)
        return self.block.get(ONE, 0.0) + self.batch.get(ONE, 0.0) + sum(cheapest)

    def per_batch(self, n: int | None) -> dict[str, float]:
        """The terms of the row divided by n; for a free n, ``once`` is left out, as a share times u is not linear."""
        terms = {INVERSE if name == ONE else name: c for name, c in self.block.items()}
        for name, c in self.batch.items():
            terms[name] = terms.get(name, 0.0) + c
        for name, c in self.once.items() if n else ():
            terms[name] = terms.get(name, 0.0) + c / (n or 1)
        return terms


def _plus(terms: Terms, more: Terms) -> Terms:
    if not terms or not more:
        return terms or more
    return {**terms, **{name: terms.get(name, 0.0) + c for name, c in more.items()}}


@dataclass(frozen=True)
class Phase:
    """Passes that cost the same: the prefill, or the decoding of one position, counted ``passes`` times.

    ``works`` are the rows of each thing that a pass does; programs share them, and few ever need their sum.
    """

    name: str
    passes: float
    works: tuple[Mapping[str, Row], ...]

    @cached_property
    def rows(self) -> Mapping[str, Row]:
        """One row a lane or resource."""
        found: dict[str, Row] = {}
        for work in self.works:
            for name, row in work.items():
                found[name] = found[name].plus(row) if name in found else row
        return found

    def seconds(self, shares: Shares, n: int) -> float:
        """One pass: its busiest lane or resource."""
        return max(row.value(shares, n) for row in self.rows.values())


@dataclass(frozen=True, slots=True)
class Program:
    """The program of one ``gpu_batch_size`` and one setting of the switches.

    ``absent`` names shares that these switches hold at 0; ``switches`` are fields of the policy;
    ``max_seconds`` bounds a whole block: the program of one block minimises its seconds, so it needs no row of its own.
    """

    gpu_batch_size: int
    phases: tuple[Phase, ...]
    bytes: Mapping[str, Row]
    budgets: Mapping[str, float]
    most_batches: int
    absent: frozenset[str] = frozenset()
    switches: Mapping[str, Any] = field(default_factory=dict)
    max_seconds: float | None = None

    def seconds(self, shares: Shares, n: int) -> float:
        """Seconds of a whole block."""
        return sum(phase.passes * phase.seconds(shares, n) for phase in self.phases)


class CostModel(Protocol):
    """Prices a block: one program for every setting of the switches; larger batches never need fewer bytes."""

    def batch_sizes(self) -> Iterable[int]: ...

    def programs(self, gpu_batch_size: int) -> Sequence[Program]: ...

    def alike(self, gpu_batch_size: int, like: Program) -> Sequence[Program]:
        """Those of the very setting of another program, whatever its size."""
        ...

    def within(self, budgets: Mapping[str, float]) -> CostModel:
        """The same under other budgets."""
        ...


# -- the program, part by part -----------------------------------------------------------------------------------
def seconds_name(phase: Phase) -> str:
    """The variable that stands for the seconds of a pass."""
    return f"seconds_{phase.name}"


def units(program: Program) -> dict[str, float]:
    """Seconds that count as 1 in each phase: the constant part of a micro-batch, so that numbers are near 1."""
    return {p.name: max(max(row.batch.get(ONE, 0.0) for row in p.rows.values()), 1e-12) for p in program.phases}


def objective_unit(program: Program) -> float:
    """Seconds of a micro-batch's share of the block that count as 1 in the objective."""
    scale = units(program)
    return sum(p.passes * scale[p.name] for p in program.phases) / _SCALE


def objective(program: Program) -> dict[str, float]:
    """Seconds of a block over its prompts; of equal ones the block with the least work on all lanes together."""
    scale, unit = units(program), objective_unit(program)
    terms = {seconds_name(p): p.passes * scale[p.name] / unit for p in program.phases}
    for phase in program.phases:
        for row in phase.rows.values():
            for name, seconds in (*row.block.items(), *row.batch.items()):
                if name != ONE and name not in program.absent:
                    terms[name] = terms.get(name, 0.0) + _TIE * phase.passes * seconds / unit
    return terms


def present(program: Program) -> list[str]:
    """The shares that may be more than 0."""
    return [name for name in SHARES if name not in program.absent]


def time_rows(program: Program, n: int | None) -> list[Constraint]:
    """seconds of a pass >= seconds of each lane and resource."""
    rows, scale = [], units(program)
    for phase in program.phases:
        lanes = {
            lane: _scaled(row.per_batch(n), 1 / scale[phase.name], program.absent) for lane, row in phase.rows.items()
        }
        for lane, terms in _undominated(lanes).items():
            constant = terms.get(ONE, 0.0)
            negated = {name: -c for name, c in terms.items() if name != ONE}
            rows.append(Constraint(f"{phase.name}_{lane}", {**negated, seconds_name(phase): 1.0}, ">=", constant))
    return rows


def _undominated(rows: Mapping[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The rows that can be the largest: not those that another one exceeds term by term."""
    kept: dict[str, dict[str, float]] = {}
    for name, terms in sorted(rows.items(), key=lambda item: -sum(item[1].values())):
        if not any(all(c <= other.get(term, 0.0) for term, c in terms.items()) for other in kept.values()):
            kept[name] = terms
    return kept


def memory_rows(program: Program, n: int | None) -> list[Constraint]:
    """bytes of a tier <= its budget."""
    rows = []
    for tier, row in program.bytes.items():
        budget = program.budgets[tier]
        terms = _scaled(row.per_batch(n), 1 / max(budget, 1.0), program.absent)
        constant = terms.pop(ONE, 0.0)
        terms[INVERSE] = terms.get(INVERSE, 0.0) - (1.0 if budget else 0.0)
        rows.append(Constraint(f"bytes_{tier}", terms, "<=", -constant))
    return rows


def share_rows(program: Program) -> list[Constraint]:
    """Three shares make a whole; those of the weights are scaled by u."""
    rows = []
    for what, names in (("w", WEIGHTS), ("cache", CACHE), ("act", ACT)):
        terms = {name: 1.0 for name in names if name not in program.absent}
        rows.append(
            Constraint(f"whole_{what}", terms | ({INVERSE: -1.0} if what == "w" else {}), "==", float(what != "w"))
        )
    return rows


def block_row(program: Program, n: int | None) -> list[Constraint]:
    """n micro-batches: as many as given, or 1 to the most."""
    if n:
        return [Constraint("batches", {INVERSE: 1.0}, "==", 1 / n)]
    return [
        Constraint("most_batches", {INVERSE: 1.0}, ">=", 1 / program.most_batches),
        Constraint("least_batches", {INVERSE: 1.0}, "<=", 1.0),
    ]


def rows_of(program: Program, n: int | None) -> list[Constraint]:
    """All constraints; see `solve_program`."""
    return [
        *time_rows(program, n),
        *memory_rows(program, n),
        *share_rows(program),
        *block_row(program, n),
    ]


def _scaled(terms: Terms, factor: float, absent: frozenset[str]) -> dict[str, float]:
    return {name: factor * c for name, c in terms.items() if c and name not in absent}


def shortage_rows(program: Program, n: int) -> list[Constraint]:
    """What n micro-batches need of each tier <= its budget, and the same part more of each."""
    memory = [replace(row, terms={**row.terms, SHORTAGE: -1.0}) for row in memory_rows(program, n)]
    return [*memory, *share_rows(program), *block_row(program, n)]


# -- solving -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Solution:
    """The best shares of a program; ``batches`` is whole unless it was left free.

    ``seconds`` is the time of a micro-batch's share of the block, by the rows themselves.
    """

    batches: float
    shares: Shares
    seconds: float
    answer: Answer


def pinned_rows(pinned: Shares) -> list[Constraint]:
    """Shares of the cache or of activations that are given."""
    return [Constraint(f"pinned_{name}", {name: 1.0}, "==", share) for name, share in pinned.items()]


def solve_program(program: Program, n: int | None = None, pinned: Shares | None = None) -> Solution | None:
    """The optimum for n micro-batches, where some shares may be given; None where nothing fits.

    For a free n (None) the rings that depend on a share count as empty: the result is then a lower bound.
    """
    answer = minimise(objective(program), [*rows_of(program, n), *pinned_rows(pinned or {})])
    if not answer.optimal:
        return None
    u = max(answer.values[INVERSE], 1e-12)
    shares = {name: answer.values.get(name, 0.0) / (u if name in WEIGHTS else 1.0) for name in SHARES}
    if n:
        return Solution(n, shares, program.seconds(shares, n) / n, answer)
    scale = units(program)
    seconds = sum(p.passes * scale[p.name] * answer.values[seconds_name(p)] for p in program.phases)
    return Solution(1 / u, shares, seconds, answer)


def least_shortage(program: Program, n: int) -> Answer:
    """The least by which n micro-batches, for which there is no room, miss the budgets; its duals prove it."""
    return minimise({SHORTAGE: 1.0}, shortage_rows(program, n))
