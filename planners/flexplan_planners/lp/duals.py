"""Shadow prices: what the last bytes of each tier are worth to the continuous program, read off its duals.

A memory row is  (bytes of the shares) / budget - u  <=  - (fixed bytes) / budget,  so a budget that is larger by a
small part e acts like u * e more on the right:  gain = - dual * u * e.  It holds for small steps only: `explain` says
what larger ones bring by solving again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flexplan.policy import Policy
from flexplan_planners.lp.rows import INVERSE, CostModel, Program, Solution, objective, rows_of, solve_program
from flexplan_planners.lp.solver import Answer, Constraint

_AT_LIMIT = 1e-6  # slack of a row, or a share: nearer than this, it is at its limit
_NOTHING = 1e-6  # of the objective: a price that is none


@dataclass(frozen=True, slots=True)
class ShadowPrices:
    """``gain`` is, by tier, the part of the time that a budget larger by a part e saves, divided by e.

    ``corner`` names the rows without slack and the shares that are 0; ``degenerate`` those among them whose price is
    nothing.  Where there are such, a little more memory and a little less have different prices, and a dual is some
    price between the two.
    """

    gain: Mapping[str, float]
    corner: frozenset[str]
    degenerate: frozenset[str]


def shadow_prices(program: Program, solution: Solution, n: int) -> ShadowPrices:
    """The prices at the optimum of a block of n micro-batches."""
    answer, rows = solution.answer, rows_of(program, n)
    u = answer.values[INVERSE]
    gain = {tier: -answer.duals.get(f"bytes_{tier}", 0.0) * u / answer.objective for tier in program.bytes}
    limits = {row.name: answer.duals[row.name] for row in rows if row.sense != "==" and _is_tight(row, answer)}
    zeros = [name for name, value in answer.values.items() if value <= _AT_LIMIT]
    limits |= {name: _reduced_cost(name, program, rows, answer) for name in zeros}
    idle = frozenset(name for name, price in limits.items() if abs(price) <= _NOTHING * answer.objective)
    return ShadowPrices(gain, frozenset(limits), idle)


def prices_of_policy(model: CostModel, policy: Policy) -> ShadowPrices | None:
    """The prices at the optimum of a policy's block and switches; None where the program does not know them."""
    n, solved = policy.num_gpu_batches, []
    for program in model.programs(policy.gpu_batch_size):
        if could_be(policy, program):
            solution = solve_program(program, n)
            solved += [(solution.seconds, program, solution)] if solution else []
    if not solved:
        return None
    _, program, solution = min(solved, key=lambda found: found[0])
    return shadow_prices(program, solution, n)


def could_be(policy: Policy, program: Program) -> bool:
    """Has the policy the program's switches, and nothing where the program allows nothing?"""
    same = all(getattr(policy, name) == value for name, value in program.switches.items())
    return same and all(getattr(policy, f"{name}_percent") == 0 for name in program.absent)


def _is_tight(row: Constraint, answer: Answer) -> bool:
    value = sum(c * answer.values[name] for name, c in row.terms.items())
    size = max(1e-12, abs(row.bound), *(abs(c * answer.values[name]) for name, c in row.terms.items()))
    return abs(value - row.bound) <= _AT_LIMIT * size


def _reduced_cost(name: str, program: Program, rows: Sequence[Constraint], answer: Answer) -> float:
    """What the objective would grow by for each unit of a share that is 0."""
    return objective(program).get(name, 0.0) - sum(answer.duals[row.name] * row.terms.get(name, 0.0) for row in rows)
