"""The phases of a whole job: what no order could beat, and what is predicted."""

from __future__ import annotations

from typing import NamedTuple

from flexplan.apart import blame_of, schedule_of
from flexplan.plan import Plan
from flexplan.policy import block_lens
from flexplan.problem import representatives
from flexplan.simulation import bound_of


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
    shapes = block_lens(plan.problem.workload, plan.policy.gpu_batch_size, plan.policy.num_gpu_batches)
    with blame_of(schedule):
        bounds = [
            (bound_of(plan.problem, plan.policy, schedule, lens), count)
            for lens, count in representatives(shapes).items()
        ]
    return Phases(sum(b.prefill_s * n for b, n in bounds), sum(b.decode_s * n for b, n in bounds))


def job_prediction(plan: Plan) -> Phases:
    """What the plan promises."""
    return Phases(plan.prediction.prefill_s, plan.prediction.decode_s)
