"""Plans: made by a planner, checked, saved and read back.

baselines     What people do without a planner: all resident, all on the host, whole layers, 4-bit.
budgets       What is over the budgets, and the largest micro-batch and block that they have room for.
long_prompts  What a few prompts much longer than the others cost all of them, as a warning.
notebook      A plan as a notebook shows it.
objectives    Whether a plan keeps its objective's bounds, and the smallest memory with which one does.
pause         The garbage collector paused while a plan is searched.
plan          `Plan`: policy, problem, schedule, shares, prediction; `simulate`, its timeline.
plan_file     A plan's file, whose every field is checked.
planner       The `Planner` protocol, and `solve`, which has every plan checked.
sandbox       Planners of other packages in the sandbox: in a process of their own, or on a thread, with a time limit.
shown         The passes that show a block.
thirdparty    Their plans: read strictly, made anew, and what does not hold up blamed on them by name.
"""

from flexplan.plan.baselines import BaselineResult, baseline_results
from flexplan.plan.budgets import refuse_endless, refuse_over_budget
from flexplan.plan.notebook import plan_html
from flexplan.plan.objectives import meets_latency
from flexplan.plan.plan import Plan, load_policy, simulate
from flexplan.plan.planner import PLANNER_TIMEOUT_S, Planner, Schedule, solve
from flexplan.plan.shown import passes_to_show, tokens_to_keep

__all__ = [
    "PLANNER_TIMEOUT_S",
    "BaselineResult",
    "Plan",
    "Planner",
    "Schedule",
    "baseline_results",
    "load_policy",
    "meets_latency",
    "passes_to_show",
    "plan_html",
    "refuse_endless",
    "refuse_over_budget",
    "simulate",
    "solve",
    "tokens_to_keep",
]
