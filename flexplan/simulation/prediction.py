"""Prediction: what a policy takes on a machine, in seconds by simulation (`block_times`) and in bytes by placement."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

from flexplan.cost import Rates
from flexplan.placement import Layout, Placement
from flexplan.policy import Policy, block_lens, fill_blocks
from flexplan.problem import Lens, Problem, Workload, envelope, representatives
from flexplan.schedule import Schedule
from flexplan.simulation.block_times import PHASES, BlockTimes, PhaseName

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
    return Forecast(problem, policy, schedule).prediction()


class Forecast:
    """The seconds of a workload, each phase simulated when it is asked for: one may say enough.

    Equal blocks are simulated once, of many unequal ones a few.
    """

    def __init__(self, problem: Problem, policy: Policy, schedule: Schedule) -> None:
        self.problem = problem
        rates = Rates(problem.hardware)
        self.shapes = block_lens(problem.workload, policy.gpu_batch_size, policy.num_gpu_batches)
        self.counts = representatives(self.shapes)
        self.blocks = {lens: BlockTimes(_of_lens(problem, lens), policy, schedule, rates) for lens in self.counts}

    def seconds(self, phase: PhaseName) -> float:
        """All passes of a phase."""
        return sum(self.blocks[lens].phase(phase).seconds * n for lens, n in self.counts.items())

    def prediction(self) -> Prediction:
        """Both phases, and what is busy in them."""
        prefill_s, decode_s = self.seconds("prefill"), self.seconds("decode")
        rows = sum(len(lens) * n for lens, n in self.shapes.items())
        largest = self.blocks[max(self.counts, key=lambda lens: (len(lens), sum(lens)))]
        return Prediction(
            tokens_per_s=rows * self.problem.workload.gen_len / (prefill_s + decode_s),
            prefill_s=prefill_s,
            decode_s=decode_s,
            busiest_lane={phase: largest.phase(phase).sample.busiest_lane() for phase in PHASES},
            lane_busy_s={phase: self._busy_s(phase) for phase in PHASES},
            block_s=sum(largest.phase(phase).seconds for phase in PHASES),
        )

    def _busy_s(self, phase: PhaseName) -> dict[str, float]:
        busy: dict[str, float] = {}
        for lens, count in self.counts.items():
            for lane, seconds in self.blocks[lens].phase(phase).busy_s().items():
                busy[lane] = busy.get(lane, 0.0) + count * seconds
        return busy


def peak_bytes(problem: Problem, policy: Policy, schedule: Schedule) -> dict[str, int]:
    """Bytes of each tier: the largest block's arenas."""
    peaks: dict[str, int] = {"gpu": 0, "cpu": 0, "disk": 0}
    for lens in _largest(problem.workload, policy.gpu_batch_size, policy.num_gpu_batches):
        part = _of_lens(problem, lens)
        live = schedule.build(part, policy).live
        placement = Placement.of(problem.model, policy, next(fill_blocks(part.workload, policy)), live)
        peaks = {tier: max(peaks[tier], nbytes) for tier, nbytes in Layout.of(placement).tier_bytes().items()}
    return peaks


@lru_cache(maxsize=16)
def _largest(workload: Workload, gpu_batch_size: int, num_gpu_batches: int) -> tuple[Lens, ...]:
    """Blocks whose bytes are those of all: themselves where they are few, else what holds any of them."""
    shapes = block_lens(workload, gpu_batch_size, num_gpu_batches)
    return tuple(shapes) if len(shapes) <= _FEW_SHAPES else tuple(envelope(list(shapes)))


def _of_lens(problem: Problem, lens: tuple[int, ...]) -> Problem:
    workload = Workload(prompt_lens=lens, gen_len=problem.workload.gen_len)
    return problem.model_copy(update={"workload": workload})
