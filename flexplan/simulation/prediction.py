"""Prediction: what a policy takes on a machine, in seconds by simulation (`block_times`) and in bytes by placement."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

from flexplan.cost import Rates
from flexplan.placement import Layout, Placement
from flexplan.policy import BlockKind, Policy, block_kinds, few_kinds, fill_blocks, rolling_block
from flexplan.problem import Problem, Workload
from flexplan.problem.ragged import envelope
from flexplan.schedule import Schedule, rolls
from flexplan.simulation.block_times import PHASES, BlockTimes, PhaseName
from flexplan.simulation.rolling import JobTime, job_time

_FEW_SHAPES = 4  # of more blocks that all differ, bytes are those of a block that holds any of them


@dataclass(frozen=True)
class Prediction:
    """What a plan promises: seconds, tokens a second over the whole workload, bytes by tier.

    ``lane_busy_s`` is, by phase, the seconds that each lane works over the whole workload; ``block_s`` the seconds
    of its heaviest block.
    """

    tokens_per_s: float
    prefill_s: float
    decode_s: float
    peak_bytes: dict[str, int] = field(default_factory=dict)
    busiest_lane: dict[str, str] = field(default_factory=dict)
    lane_busy_s: dict[str, dict[str, float]] = field(default_factory=dict)
    block_s: float = 0.0

    def __hash__(self) -> int:
        return hash((self.tokens_per_s, self.prefill_s, self.decode_s, self.block_s))

    @property
    def total_s(self) -> float:
        return self.prefill_s + self.decode_s


def predict(problem: Problem, policy: Policy, schedule: Schedule) -> Prediction:
    """Seconds and bytes of a workload."""
    return with_bytes(predict_seconds(problem, policy, schedule), problem, policy, schedule)


def with_bytes(seconds: Prediction, problem: Problem, policy: Policy, schedule: Schedule) -> Prediction:
    """A prediction of seconds, completed."""
    return replace(seconds, peak_bytes=peak_bytes(problem, policy, schedule))


def predict_seconds(problem: Problem, policy: Policy, schedule: Schedule) -> Prediction:
    """A prediction without bytes: those take a placement of all layers, which a search spares the plans that lose."""
    if rolls(schedule):
        return _of_job(job_time(problem, policy), problem, policy)
    return Forecast(problem, policy, schedule).prediction()


class Forecast:
    """The seconds of a workload, each phase simulated when it is asked for: one may say enough.

    Equal blocks are simulated once, of many unequal ones a few.
    """

    def __init__(self, problem: Problem, policy: Policy, schedule: Schedule) -> None:
        self.problem = problem
        rates = Rates(problem.hardware)
        self.kinds = block_kinds(problem.workload, policy.gpu_batch_size, policy.num_gpu_batches)
        self.counts = few_kinds(problem.workload, policy)
        self.blocks = {kind: BlockTimes(_of_kind(problem, kind), policy, schedule, rates) for kind in self.counts}

    def seconds(self, phase: PhaseName) -> float:
        """All passes of a phase."""
        return sum(self.blocks[kind].phase(phase).seconds * n for kind, n in self.counts.items())

    def prediction(self) -> Prediction:
        """Both phases, and what is busy in them."""
        prefill_s, decode_s = self.seconds("prefill"), self.seconds("decode")
        rows = sum(len(kind.lens) * n for kind, n in self.kinds.items())
        largest = self.blocks[max(self.counts, key=lambda kind: (len(kind.lens), kind.load))]
        return Prediction(
            tokens_per_s=self.problem.workload.new_tokens(rows) / (prefill_s + decode_s),
            prefill_s=prefill_s,
            decode_s=decode_s,
            busiest_lane={phase: largest.phase(phase).sample.busiest_lane() for phase in PHASES},
            lane_busy_s={phase: self._busy_s(phase) for phase in PHASES},
            block_s=sum(largest.phase(phase).seconds for phase in PHASES),
        )

    def _busy_s(self, phase: PhaseName) -> dict[str, float]:
        busy: dict[str, float] = {}
        for kind, count in self.counts.items():
            for lane, seconds in self.blocks[kind].phase(phase).busy_s().items():
                busy[lane] = busy.get(lane, 0.0) + count * seconds
        return busy


def _of_job(job: JobTime, problem: Problem, policy: Policy) -> Prediction:
    """Of a rolling job, whose passes are prefill and decoding at once: all of it counts as decoding."""
    lane = max(job.lane_busy_s, key=lambda name: job.lane_busy_s[name])
    rows = problem.workload.num_prompts or policy.block_size
    return Prediction(
        tokens_per_s=problem.workload.new_tokens(rows) / job.seconds,
        prefill_s=0.0,
        decode_s=job.seconds,
        busiest_lane={"prefill": lane, "decode": lane},
        lane_busy_s={"prefill": {}, "decode": dict(job.lane_busy_s)},
        block_s=job.seconds,
    )


def peak_bytes(problem: Problem, policy: Policy, schedule: Schedule) -> dict[str, int]:
    """Bytes of each tier: the largest block's arenas."""
    if rolls(schedule):
        return Layout.of(Placement.of(problem.model, policy, rolling_block(problem.workload, policy))).tier_bytes()
    peaks: dict[str, int] = {"gpu": 0, "cpu": 0, "disk": 0}
    for kind in _largest(problem.workload, policy.gpu_batch_size, policy.num_gpu_batches):
        part = _of_kind(problem, kind)
        live = schedule.build(part, policy).live
        placement = Placement.of(problem.model, policy, next(fill_blocks(part.workload, policy)), live)
        peaks = {tier: max(peaks[tier], nbytes) for tier, nbytes in Layout.of(placement).tier_bytes().items()}
    return peaks


@lru_cache(maxsize=16)
def _largest(workload: Workload, gpu_batch_size: int, num_gpu_batches: int) -> tuple[BlockKind, ...]:
    """Blocks whose bytes are those of all: themselves where they are few, else what holds any of them."""
    kinds = block_kinds(workload, gpu_batch_size, num_gpu_batches)
    if len(kinds) <= _FEW_SHAPES:
        return tuple(kinds)
    return tuple(BlockKind(lens, workload.gen_len) for lens in envelope([kind.lens for kind in kinds]))


def _of_kind(problem: Problem, kind: BlockKind) -> Problem:
    return problem.model_copy(update={"workload": kind.workload})
