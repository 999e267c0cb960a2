"""The linear program: its rows, their coefficients, its solver, and what its duals say.

bytes     Bytes of the three tiers, affine in the shares: an upper bound of the placement.
duals     What the last bytes of each tier are worth to the continuous program.
lagrange  Lower bounds of many programs at once, from the duals of one.
programs  The programs of a problem: one a batch size and setting of the switches.
rows      The paper's linear program: shares, lanes, memory; Charnes and Cooper for a free block size.
seconds   Seconds of every lane and resource, affine in the shares, read off the work of `flexplan.cost.work`.
shares    Shares of a solution as the percents of a policy, and back.
solver    A linear program as plain data, solved by HiGHS through PuLP 3 or 4, the answer checked.
switches  What the program cannot decide: host attention, split layers, which things stay on the GPU.
"""

from flexplan_planners.lp.duals import could_be, prices_of_policy
from flexplan_planners.lp.lagrange import Bounds, Prices, prices_of, prices_of_shortage
from flexplan_planners.lp.programs import MOST_BATCHES, FlexplanCosts
from flexplan_planners.lp.rows import (
    ACT,
    CACHE,
    INVERSE,
    ONE,
    WEIGHTS,
    CostModel,
    Program,
    Shares,
    Solution,
    least_shortage,
    memory_rows,
    present,
    share_rows,
    solve_program,
)
from flexplan_planners.lp.shares import read_back, shares_of
from flexplan_planners.lp.solver import Constraint, minimise

__all__ = [
    "ACT",
    "CACHE",
    "INVERSE",
    "MOST_BATCHES",
    "ONE",
    "WEIGHTS",
    "Bounds",
    "Constraint",
    "CostModel",
    "FlexplanCosts",
    "Prices",
    "Program",
    "Shares",
    "Solution",
    "could_be",
    "least_shortage",
    "memory_rows",
    "minimise",
    "present",
    "prices_of",
    "prices_of_policy",
    "prices_of_shortage",
    "read_back",
    "share_rows",
    "shares_of",
    "solve_program",
]
