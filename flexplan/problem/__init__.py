"""Problems: a model, a machine, and the prompts.

expected   Expected lengths: how long answers are likely to be, which nobody knows but for the most.
objective  `Objective`: tokens a second, a bound of latency, or the smallest memory.
problem    `Workload` and `Problem`: a model on a machine for some prompts, and what the answer is to be best at.
ragged     Prompts of many lengths: a typical block, and a few that stand for all.
"""

from flexplan.problem.expected import Expectation, expectation_of
from flexplan.problem.objective import Objective
from flexplan.problem.problem import Problem, Workload

__all__ = ["Expectation", "Objective", "Problem", "Workload", "expectation_of"]
