"""The phases of a whole job: what no order could beat, and what is predicted."""

from __future__ import annotations

from typing import NamedTuple

from flexplan.apart import blame_of, schedule_of
from flexplan.plan import Plan
from flexplan.policy import block_kinds
from flexplan.problem import representatives
from flexplan.schedule import rolls
from flexplan.simulation import bound_of, job_time


class Phases(NamedTuple):
    """Seconds of prefill and of decoding, all blocks together."""

    prefill_s: float
    decode_s: float

    @property
    def total_s(self) -> float:
        """Seconds of both."""
        return self.prefill_s + self.decode_s


def job_bound(plan: Plan) -> Phases:
    """The bounds of all blocks; of many kinds of blocks, a few stand for all, as in the prediction."""
    schedule = schedule_of(plan.schedule)
    if rolls(schedule):
        return Phases(0.0, job_time(plan.problem, plan.policy).bound_s)
    kinds = block_kinds(plan.problem.workload, plan.policy.gpu_batch_size, plan.policy.num_gpu_batches)
    few = representatives(kinds, lambda kind: len(kind.lens), lambda kind: kind.load)
    with blame_of(schedule):
        bounds = [
            (bound_of(plan.problem.with_most_tokens(kind.gen_len), plan.policy, schedule, kind.lens), count)
            for kind, count in few.items()
        ]
    return Phases(sum(b.prefill_s * n for b, n in bounds), sum(b.decode_s * n for b, n in bounds))


def job_prediction(plan: Plan) -> Phases:
    """What the plan promises."""
    return Phases(plan.prediction.prefill_s, plan.prediction.decode_s)
