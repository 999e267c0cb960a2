"""From the program's best answer to a block that fits.

branch_and_bound  Whole micro-batches around the program, by branch and bound.
fitting           A block fitted to what the placement really needs: what the program's rows are off is credited.
infeasible        Which tiers are too small, and the smallest budget of each that would do.
latency           The fastest plan whose block takes no longer than is allowed.
neighbours        What lies next to an answer: other micro-batches, more or fewer, other switches, whole shares.
"""

from flexplan_planners.fit.branch_and_bound import Optimum, Search, kind_of, optimise
from flexplan_planners.fit.fitting import Fitting, Needs
from flexplan_planners.fit.infeasible import infeasible, with_plenty
from flexplan_planners.fit.latency import within_latency
from flexplan_planners.fit.neighbours import neighbours, solved

__all__ = [
    "Fitting",
    "Needs",
    "Optimum",
    "Search",
    "infeasible",
    "kind_of",
    "neighbours",
    "optimise",
    "solved",
    "with_plenty",
    "within_latency",
]
