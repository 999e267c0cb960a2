"""Prediction: simulate a policy's task graph on a machine, of many passes and layers only a few.

Passes are alike, and the price of a token grows as its keys and values do (`decoding`).  Layers are alike: what a
few add to a few, each further one costs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache

from flexplan.cost import Rates
from flexplan.graph import Timeline
from flexplan.placement import Layout, Placement, fewer_layers, lookahead
from flexplan.policy import BlockKind, Policy, block_kinds, fill_blocks, rolling_block
from flexplan.problem import Problem, Workload, envelope, representatives
from flexplan.schedule import Schedule, rolls
from flexplan.simulation.bounds import least_seconds
from flexplan.simulation.decoding import decode_seconds, knots, stands_for
from flexplan.simulation.fewer_batches import numbers_of_few, of_few
from flexplan.simulation.rolling import JobTime, job_time
from flexplan.simulation.simulator import simulate_graph

_ALL_TOKENS, _ALL_LAYERS = 4, 16  # up to these, all are simulated
_FEW_LAYERS = 2
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


@dataclass(frozen=True, slots=True)
class _BlockTime:
    prefill_s: float
    decode_s: float
    first: Timeline
    decode: Timeline

    def busy_s(self, phase: str) -> dict[str, float]:
        """Seconds that each lane works in a phase: in all of it as in the passes that were simulated."""
        took, part = (self.prefill_s, self.first) if phase == "prefill" else (self.decode_s, self.decode)
        times = took / part.end_s if part.end_s > 0 else 0.0
        return {lane: times * busy for lane, busy in part.lane_busy_s.items()}


def predict(problem: Problem, policy: Policy, schedule: Schedule) -> Prediction:
    """Seconds and bytes of a workload."""
    return with_bytes(predict_seconds(problem, policy, schedule), problem, policy, schedule)


def with_bytes(seconds: Prediction, problem: Problem, policy: Policy, schedule: Schedule) -> Prediction:
    """A prediction of seconds, completed."""
    return replace(seconds, peak_bytes=peak_bytes(problem, policy, schedule))


def predict_seconds(problem: Problem, policy: Policy, schedule: Schedule) -> Prediction:
    """A prediction without bytes: those take a placement of all layers, which a search spares the plans that lose.

    Equal blocks are simulated once, of many unequal ones a few.
    """
    if rolls(schedule):
        return _of_job(job_time(problem, policy), problem, policy)
    rates = Rates(problem.hardware)
    kinds = block_kinds(problem.workload, policy.gpu_batch_size, policy.num_gpu_batches)
    counts = representatives(kinds, lambda kind: len(kind.lens), lambda kind: kind.load)
    times = {kind: _block_time(_of_kind(problem, kind), policy, schedule, rates) for kind in counts}
    prefill = sum(times[kind].prefill_s * n for kind, n in counts.items())
    decode = sum(times[kind].decode_s * n for kind, n in counts.items())
    rows = sum(len(kind.lens) * n for kind, n in kinds.items())
    largest = times[max(counts, key=lambda kind: (len(kind.lens), kind.load))]
    return Prediction(
        tokens_per_s=problem.workload.new_tokens(rows) / (prefill + decode),
        prefill_s=prefill,
        decode_s=decode,
        busiest_lane={"prefill": largest.first.busiest_lane(), "decode": largest.decode.busiest_lane()},
        lane_busy_s={phase: _busy_s(times, counts, phase) for phase in ("prefill", "decode")},
        block_s=largest.prefill_s + largest.decode_s,
    )


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


def _busy_s(times: Mapping[BlockKind, _BlockTime], counts: Mapping[BlockKind, float], phase: str) -> dict[str, float]:
    busy: dict[str, float] = {}
    for kind, count in counts.items():
        for lane, seconds in times[kind].busy_s(phase).items():
            busy[lane] = busy.get(lane, 0.0) + count * seconds
    return busy


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
    workload = Workload(prompt_lens=kind.lens, gen_len=kind.gen_len)
    return problem.model_copy(update={"workload": workload})


def _block_time(problem: Problem, policy: Policy, schedule: Schedule, rates: Rates) -> _BlockTime:
    """A block; one of many micro-batches that are alike by two of few."""
    numbers = numbers_of_few(problem, policy)
    if numbers is None:
        return _time_of(problem, policy, schedule, rates)
    few, more = (_time_of(*of_few(problem, policy, schedule, n), rates) for n in numbers)
    return _of_more(few, more, (policy.num_gpu_batches - numbers[0]) / (numbers[1] - numbers[0]))


def _of_more(few: _BlockTime, more: _BlockTime, times: float) -> _BlockTime:
    """``few``, and ``times`` what ``more`` adds to it."""
    prefill_s, decode_s = (
        a + times * (b - a) for a, b in ((few.prefill_s, more.prefill_s), (few.decode_s, more.decode_s))
    )
    first, decode = _stretched(few.first, more.first, times), _stretched(few.decode, more.decode, times)
    return _BlockTime(prefill_s, decode_s, first, decode)


def _time_of(problem: Problem, policy: Policy, schedule: Schedule, rates: Rates) -> _BlockTime:
    """All passes of a few tokens; of more, for each set of micro-batches that run together, some of its passes."""
    tokens = problem.workload.gen_len
    if tokens <= _ALL_TOKENS:
        first = _simulated(problem, policy, schedule, rates, range(1))
        whole = _simulated(problem, policy, schedule, rates, range(tokens))
        return _BlockTime(first.end_s, whole.end_s - first.end_s, first, _less(whole, first))
    prefill_s = decode_s = 0.0
    for ks, times in _batch_sets(problem, policy, schedule):
        first = _simulated(problem, policy, schedule, rates, range(1), ks)
        later_s, decode = _decoding(problem, policy, schedule, rates, ks)
        prefill_s += times * first.end_s
        decode_s += times * later_s
    return _BlockTime(prefill_s, decode_s, first, decode)


def _decoding(
    problem: Problem, policy: Policy, schedule: Schedule, rates: Rates, ks: tuple[int, ...]
) -> tuple[float, Timeline]:
    """Seconds of all passes but the first, and a timeline of those that were simulated."""
    last = problem.workload.gen_len - 1
    busy = least_seconds(problem, policy, schedule, rates, (1, last - 1), ks)  # nothing is fetched after the last one
    ends, seconds, runs = (busy[1], busy[last - 1]), dict[int, float](), dict[int, Timeline]()
    for i in knots(last, ends):
        before = min(max(1, i - 1), last - 2)  # neither the prefill nor the last pass
        runs[i] = _simulated(problem, policy, schedule, rates, range(before, before + 2), ks)
        seconds[i] = runs[i].sweep_end_s[before + 1] - runs[i].sweep_end_s[before]
    return decode_seconds(last, ends, seconds), _weighted(runs, stands_for(last, list(runs)))


def _weighted(runs: Mapping[int, Timeline], weights: Mapping[int, float]) -> Timeline:
    """The sum of some timelines, each as often as it counts."""
    whole = Timeline()
    for i, run in runs.items():
        whole.end_s += weights[i] * run.end_s
        for lane, seconds in run.lane_busy_s.items():
            whole.lane_busy_s[lane] = whole.lane_busy_s.get(lane, 0.0) + weights[i] * seconds
    return whole


def _batch_sets(problem: Problem, policy: Policy, schedule: Schedule) -> Iterator[tuple[tuple[int, ...], int]]:
    """The micro-batches that share a pass, and how many such sets are alike."""
    batches = next(fill_blocks(problem.workload, policy)).batches
    few = problem.with_layers(min(problem.model.num_layers, _FEW_LAYERS)).with_most_tokens(_ALL_TOKENS)
    sets = {sweep.ks: None for sweep in schedule.build(few, policy).sweeps()}
    shapes = {ks: tuple((batches[k].num_rows, batches[k].prompt_len) for k in ks) for ks in sets}
    first = {shape: ks for ks, shape in reversed(shapes.items())}
    for shape, times in Counter(shapes.values()).items():
        yield first[shape], times


def _simulated(
    problem: Problem,
    policy: Policy,
    schedule: Schedule,
    rates: Rates,
    tokens: range,
    ks: tuple[int, ...] | None = None,
) -> Timeline:
    """The timeline of some tokens' passes, by all micro-batches or by ``ks``; of many layers, what they add up to."""

    @cache
    def of_layers(num_layers: int) -> Timeline:
        graph = schedule.build(problem.with_layers(num_layers), policy)
        sweeps = (sweep for sweep in graph.sweeps() if sweep.i in tokens and ks in (None, sweep.ks))
        return simulate_graph(graph, rates, keep=False, sweeps=sweeps)

    layers = problem.model.num_layers
    if layers <= _ALL_LAYERS:
        return of_layers(layers)
    step = max(2, lookahead(policy) + 1)  # of fewer layers than slots, a pass is not like one of many
    least = max(_FEW_LAYERS, step)
    while True:
        count = fewer_layers(layers, policy, least)
        few, more = of_layers(count), of_layers(count + step)
        if not _hides_something(few, more) or count + step >= layers:
            return _stretched(few, more, (layers - count) / step)
        least, step = 2 * least, 2 * step


def _hides_something(few: Timeline, more: Timeline) -> bool:
    """Do more layers take a lane longer than they take the whole: is something else longer than the few?"""
    busy = max(seconds - few.lane_busy_s.get(lane, 0.0) for lane, seconds in more.lane_busy_s.items())
    return more.end_s - few.end_s < 0.99 * busy


def _stretched(few: Timeline, more: Timeline, times: float) -> Timeline:
    """``few``, and ``times`` what ``more`` adds to it."""

    def reach(a: float, b: float) -> float:
        return a + times * (b - a)

    return Timeline(
        end_s=reach(few.end_s, more.end_s),
        sweep_end_s={i: reach(end, more.sweep_end_s[i]) for i, end in few.sweep_end_s.items() if i in more.sweep_end_s},
        lane_busy_s={lane: reach(busy, more.lane_busy_s.get(lane, busy)) for lane, busy in few.lane_busy_s.items()},
    )


def _less(more: Timeline, less: Timeline) -> Timeline:
    """Busy seconds that the longer run has beyond the shorter one."""
    busy = {lane: seconds - less.lane_busy_s.get(lane, 0.0) for lane, seconds in more.lane_busy_s.items()}
    return Timeline(end_s=more.end_s - less.end_s, lane_busy_s=busy)
