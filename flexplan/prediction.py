"""Prediction: simulate a policy's task graph on a machine, a few passes exactly and the rest between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from flexplan.blocks import Block, fill_blocks
from flexplan.cost import Rates
from flexplan.graph import TaskGraph
from flexplan.lengths import Lens, envelope, representatives
from flexplan.placement import Placement
from flexplan.policy import Policy
from flexplan.problem import Problem, Workload
from flexplan.simulator import simulate_graph
from flexplan.timeline import Timeline

_FEW_LAYERS, _MANY_LAYERS = 4, 16
_FEW_SHAPES = 4  # of more blocks that all differ, bytes are those of a block that holds any of them


class Schedule(Protocol):
    """Turns a problem's first block under a policy into tasks.

    ``build`` may be called often and must not keep state between calls.
    """

    def build(self, problem: Problem, policy: Policy) -> TaskGraph: ...


@dataclass(frozen=True)
class Prediction:
    """What a plan promises: seconds, tokens a second over the whole workload, bytes by tier.

    ``lane_busy_s`` is, by phase, the seconds that each lane works over the whole workload; ``block_s`` the seconds
    of its heaviest block.
    """

    tokens_per_s: float
    prefill_s: float
    decode_s: float
    peak_bytes: dict[str, int]
    busiest_lane: dict[str, str] = field(default_factory=dict)
    lane_busy_s: dict[str, dict[str, float]] = field(default_factory=dict)
    block_s: float = 0.0

    @property
    def total_s(self) -> float:
        return self.prefill_s + self.decode_s


@dataclass(frozen=True, slots=True)
class _BlockTime:
    prefill_s: float
    decode_s: float
    first: Timeline
    decode: Timeline

    def busy_s(self, phase: str) -> dict[str, float]:
        """Seconds that each lane works in a phase; in decoding as in the passes that were simulated."""
        if phase == "prefill":
            return self.first.lane_busy_s
        times = self.decode_s / self.decode.end_s if self.decode.end_s > 0 else 0.0
        return {lane: times * busy for lane, busy in self.decode.lane_busy_s.items()}


def predict(problem: Problem, policy: Policy, schedule: Schedule) -> Prediction:
    """Seconds and bytes of a workload; equal blocks are simulated once, of many unequal ones a few."""
    rates = Rates(problem.hardware)
    shapes = Counter(_shape_of(block) for block in fill_blocks(problem.workload, policy))
    counts = representatives(shapes)
    times = {lens: _block_time(_of_lens(problem, lens), policy, schedule, rates) for lens in counts}
    prefill = sum(times[lens].prefill_s * n for lens, n in counts.items())
    decode = sum(times[lens].decode_s * n for lens, n in counts.items())
    rows = sum(len(lens) * n for lens, n in shapes.items())
    largest = times[max(counts, key=lambda lens: (len(lens), sum(lens)))]
    return Prediction(
        tokens_per_s=rows * problem.workload.gen_len / (prefill + decode),
        prefill_s=prefill,
        decode_s=decode,
        peak_bytes=peak_bytes(problem, policy, schedule),
        busiest_lane={"prefill": largest.first.busiest_lane(), "decode": largest.decode.busiest_lane()},
        lane_busy_s={phase: _busy_s(times, counts, phase) for phase in ("prefill", "decode")},
        block_s=largest.prefill_s + largest.decode_s,
    )


def _busy_s(times: Mapping[Lens, _BlockTime], counts: Mapping[Lens, float], phase: str) -> dict[str, float]:
    busy: dict[str, float] = {}
    for lens, count in counts.items():
        for lane, seconds in times[lens].busy_s(phase).items():
            busy[lane] = busy.get(lane, 0.0) + count * seconds
    return busy


def peak_bytes(problem: Problem, policy: Policy, schedule: Schedule) -> dict[str, int]:
    """Bytes of each tier: the largest block's arenas."""
    peaks: dict[str, int] = {"gpu": 0, "cpu": 0, "disk": 0}
    shapes = {_shape_of(block) for block in fill_blocks(problem.workload, policy)}
    for lens in shapes if len(shapes) <= _FEW_SHAPES else envelope(list(shapes)):
        part = _of_lens(problem, lens)
        live = schedule.build(part, policy).live
        placed = Placement.of(problem.model, policy, next(fill_blocks(part.workload, policy)), live).tier_bytes()
        peaks = {tier: max(peaks[tier], nbytes) for tier, nbytes in placed.items()}
    return peaks


def _shape_of(block: Block) -> tuple[int, ...]:
    return tuple(batch.prompt_len for batch in block.batches for _ in batch.rows)


def _of_lens(problem: Problem, lens: tuple[int, ...], gen_len: int | None = None) -> Problem:
    workload = Workload(prompt_lens=lens, gen_len=gen_len or problem.workload.gen_len)
    return problem.model_copy(update={"workload": workload})


def _block_time(problem: Problem, policy: Policy, schedule: Schedule, rates: Rates) -> _BlockTime:
    """All tokens of up to four; else the first two passes, and the price of one more token early and late.

    Between the two the price of a token grows linearly, as its keys and values do.
    """
    lens, gen_len = problem.workload.prompt_lens, problem.workload.gen_len

    def run(extra: int, tokens: int) -> Timeline:
        return _simulated(_of_lens(problem, tuple(n + extra for n in lens), tokens), policy, schedule, rates)

    first = run(0, 1)
    if gen_len <= 4:
        whole = run(0, gen_len) if gen_len > 1 else first
        return _BlockTime(first.end_s, whole.end_s - first.end_s, first, _less(whole, first))
    begin, finish = run(0, 3), run(gen_len - 3, 3)
    if len(lens) > policy.gpu_batch_size * schedule.build(problem, policy).live:
        # row by row: the tokens of one micro-batch end before the next begins, so only whole runs can be compared
        early_s, late_s = begin.end_s - run(0, 2).end_s, finish.end_s - run(gen_len - 3, 2).end_s
        decode_s = (begin.end_s - early_s - first.end_s) + (gen_len - 2) * (early_s + late_s) / 2
    else:
        early_s, late_s, last_s = _token_s(begin, 1), _token_s(finish, 1), _token_s(finish, 2)
        decode_s = (gen_len - 2) * (early_s + late_s) / 2 + last_s
    return _BlockTime(first.end_s, decode_s, first, _less(begin, first))


def _simulated(problem: Problem, policy: Policy, schedule: Schedule, rates: Rates) -> Timeline:
    """The timeline of a few passes; of a deep model, what its layers add up to.

    Layers are alike, so the fifth to eighth show what each further one costs: within 1 in 1,000 of all of them,
    except where the disk is used, which the first layers of a pass do not wait for.
    """

    def of_layers(num_layers: int) -> Timeline:
        part = problem.model_copy(update={"model": problem.model.model_copy(update={"num_layers": num_layers})})
        return simulate_graph(schedule.build(part, policy), rates, keep=False)

    layers, on_disk = problem.model.num_layers, any(policy.shares(what)[2] for what in ("w", "cache", "act"))
    if layers <= _MANY_LAYERS or on_disk:
        return of_layers(layers)
    few, more = of_layers(_FEW_LAYERS), of_layers(2 * _FEW_LAYERS)
    return _stretched(few, more, (layers - _FEW_LAYERS) / _FEW_LAYERS)


def _stretched(few: Timeline, more: Timeline, times: float) -> Timeline:
    """``few``, and ``times`` what ``more`` adds to it."""

    def reach(a: float, b: float) -> float:
        return a + times * (b - a)

    return Timeline(
        end_s=reach(few.end_s, more.end_s),
        sweep_end_s={i: reach(end, more.sweep_end_s[i]) for i, end in few.sweep_end_s.items()},
        lane_busy_s={lane: reach(busy, more.lane_busy_s[lane]) for lane, busy in few.lane_busy_s.items()},
    )


def _token_s(timeline: Timeline, i: int) -> float:
    return timeline.sweep_end_s[i] - timeline.sweep_end_s[i - 1]


def _less(more: Timeline, less: Timeline) -> Timeline:
    """Busy seconds that the longer run has beyond the shorter one."""
    busy = {lane: seconds - less.lane_busy_s.get(lane, 0.0) for lane, seconds in more.lane_busy_s.items()}
    return Timeline(end_s=more.end_s - less.end_s, lane_busy_s=busy)
