"""The phases of a whole job: what no order could beat, and what is predicted."""

from __future__ import annotations

from typing import NamedTuple

from flexplan.plan import Plan
from flexplan.policy import few_kinds
from flexplan.sandbox import blame_of, schedule_of
from flexplan.schedule import rolls
from flexplan.simulation import bound_of, job_time


class Phases(NamedTuple):
    """Seconds of prefill and of decoding, all blocks together."""

    prefill_s: float
    decode_s: float
    limit: str = ""  # the lane or resource that sets a bound, in the longer phase

    @property
    def total_s(self) -> float:
        """Seconds of both."""
        return self.prefill_s + self.decode_s


def job_bound(plan: Plan) -> Phases:
    """The bounds of all blocks; of many kinds of blocks, a few stand for all, as in the prediction."""
    schedule = schedule_of(plan.schedule)
    if rolls(schedule):
        job = job_time(plan.problem, plan.policy)
        return Phases(0.0, job.bound_s, job.limit)
    with blame_of(schedule):
        bounds = [
            (bound_of(plan.problem.with_most_tokens(kind.gen_len), plan.policy, schedule, kind.lens), count)
            for kind, count in few_kinds(plan.problem.workload, plan.policy).items()
        ]
    prefill_s, decode_s = sum(b.prefill_s * n for b, n in bounds), sum(b.decode_s * n for b, n in bounds)
    most = max((b for b, _ in bounds), key=lambda b: b.total_s)
    return Phases(prefill_s, decode_s, most.prefill_limit if prefill_s > decode_s else most.decode_limit)


def job_prediction(plan: Plan) -> Phases:
    """What the plan promises."""
    return Phases(plan.prediction.prefill_s, plan.prediction.decode_s)
