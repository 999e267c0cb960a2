"""The linear-program planner: the paper's program over every setting of the switches, rounded and placed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flexplan.errors import InfeasiblePlan, UsageError
from flexplan.plan import Plan
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.sandbox import schedule_of
from flexplan_planners.fit import Fitting, Needs, Optimum, infeasible, optimise, with_plenty, within_latency
from flexplan_planners.lp import MOST_BATCHES, CostModel, FlexplanCosts, Program, could_be, prices_of_policy
from flexplan_planners.lp.duals import ShadowPrices

_ROUTES_FIRST = ("zigzag", "rowwise")  # schedules that are known to send what routers chose


class LpPlanner:
    """Shares of all tensors by linear programming, judged by the busiest lane alone.

    ``cost_model`` is used instead of flexplan's own; ``host_attention``, ``sep_layer`` and ``experts_on_demand`` say
    which settings of these switches are allowed, ``lossy`` holds the policy fields that change the tokens and may be
    set, with their values: ``{"compress_weight": True, "compress_cache": True, "attn_sparsity": 0.1}``.
    """

    def __init__(
        self,
        schedule: str = "zigzag",
        cost_model: CostModel | None = None,
        *,
        host_attention: Sequence[bool] = (True, False),
        sep_layer: Sequence[bool] = (False, True),
        experts_on_demand: Sequence[bool] = (False, True),
        lossy: Mapping[str, Any] | None = None,
    ) -> None:
        self.schedule = schedule
        self.cost_model = cost_model
        self.host_attention = tuple(host_attention)
        self.sep_layer = tuple(sep_layer)
        self.experts_on_demand = tuple(experts_on_demand) if schedule in _ROUTES_FIRST else (False,)
        self.lossy = dict(lossy or {})

    def plan(self, problem: Problem) -> Plan:
        """The fastest policy by the program; raises InfeasiblePlan with numbers."""
        return within_latency(self._plan, problem)

    def _plan(self, problem: Problem) -> Plan:
        if self.schedule == "rolling":
            message = "planner lp writes policies of blocks, the schedule rolling has none"
            raise UsageError("FP129", message, fix="use --planner search or manual, or another schedule")
        fitted = (self.fitted(problem, optimum) for optimum in self.optima(problem))
        policy = next((policy for policy in fitted if policy is not None), None) or self.squeezed(problem)
        if policy is None:
            raise self.refusal(problem)
        return Plan.of(problem, policy, schedule=self.schedule, planner="lp")

    def shadow_prices(self, problem: Problem, policy: Policy) -> dict[str, float]:
        """For each tier the part of the time that a budget larger by a small part saves, over that part."""
        found = prices_of_policy(self.model(problem), policy) or self._prices_with_room(problem, policy)
        return dict(found.gain) if found else {}

    def _prices_with_room(self, problem: Problem, policy: Policy) -> ShadowPrices | None:
        """Those of a policy that fits, though the rows count it too high: in budgets larger by as much."""
        fitting = Fitting(problem, schedule_of(self.schedule), policy.num_gpu_batches)
        for program in self.model(with_plenty(problem)).programs(policy.gpu_batch_size):
            if could_be(policy, program):
                return prices_of_policy(self.model(problem).within(fitting.roomier(program, policy)), policy)
        return None

    def optima(self, problem: Problem, spread: float = 0.0) -> list[Optimum]:
        """The fastest block, and what was met on the way to it; see `optimise`."""
        return optimise(self.model(problem), problem.workload.num_prompts, spread)

    def model(self, problem: Problem) -> CostModel:
        """The cost model; row by row, every micro-batch streams the weights for itself, so one is as good as many."""
        most = 1 if self.schedule == "rowwise" else MOST_BATCHES
        return self.cost_model or FlexplanCosts(
            problem,
            host_attention=self.host_attention,
            sep_layer=self.sep_layer,
            lossy=self.lossy,
            most_batches=most,
            experts_on_demand=self.experts_on_demand,
        )

    def refusal(self, problem: Problem) -> InfeasiblePlan:
        """What would have to grow for a plan to exist."""
        programs, needs = self._programs_of_one(problem), Needs()
        return infeasible(problem, programs, lambda smaller: self._squeezes(smaller, programs, needs))

    def fitted(self, problem: Problem, optimum: Optimum) -> Policy | None:
        """The policy of an optimum, placed within the budgets; None where a third-party schedule needs too much."""
        fitting = Fitting(problem, schedule_of(self.schedule), optimum.num_gpu_batches)
        return fitting.fit(optimum.program, optimum.solution.shares, pinned=optimum.pinned)

    def squeezed(self, problem: Problem) -> Policy | None:
        """One sequence at a time, where the programs say that nothing fits but count a little too much."""
        programs, needs = self._programs_of_one(problem), Needs()
        return self._of_one(problem, needs).fastest(programs) if self._squeezes(problem, programs, needs) else None

    def _squeezes(self, problem: Problem, programs: Sequence[Program], needs: Needs) -> bool:
        """Is there a policy of one sequence at a time?"""
        return self.cost_model is None and self._of_one(problem, needs).any_fits(programs)

    def _programs_of_one(self, problem: Problem) -> Sequence[Program]:
        """Those of one sequence at a time, whatever the budgets."""
        return self.model(with_plenty(problem)).programs(1)

    def _of_one(self, problem: Problem, needs: Needs) -> Fitting:
        return Fitting(problem, schedule_of(self.schedule), 1, needs)
