"""A request that was found right, run: its prompts completed, or measured beside what the simulator says of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce

import torch

from flexplan.graph import Timeline, tier_of
from flexplan.job import BenchReport, Choice, Completion, Listener, Recording, RunReport, Standing, UsageMean
from flexplan.plan import Plan, simulate, tokens_to_keep
from flexplan.policy import BlockKind, few_kinds
from flexplan.sandbox import schedule_of
from flexplan.schedule import rolls
from flexplan_runtime.commands.prepare import Ready
from flexplan_runtime.commands.recorder import Recorder, Sample, whole_bound
from flexplan_runtime.execute import Trace
from flexplan_runtime.generate import Generation, OffloadedLM, Request, refuse_broken
from flexplan_runtime.memory import Ledger

_MOST_KEPT = 1000  # passes of a recording
MOVES = ("up_bytes", "down_bytes", "read_bytes", "write_bytes")


def run_ready(ready: Ready, listener: Listener) -> RunReport:
    """Load the weights and complete the prompts."""
    with loaded(ready, listener) as (lm, watch, load_s):
        listener.stage("generating")
        began_s = time.perf_counter()
        done = generate(ready, lm, watch)
        return _report(ready, lm, done, watch, load_s, time.perf_counter() - began_s)


def bench_ready(ready: Ready, plan: Plan, listener: Listener) -> BenchReport:
    """A short run to warm up, then the blocks that count."""
    blocks = _blocks(plan)
    predicted = _foretold(blocks)
    on_device = ready.env.device.type == "cuda"
    if on_device:
        torch.cuda.reset_peak_memory_stats(ready.env.device)
    with loaded(ready, listener) as (lm, _, load_s):
        listener.stage("warming up")
        lm.complete(ready.requests.ids[: 2 * ready.policy.block_size], min(2, ready.request.max_new_tokens))
        lm.env.ledger.moved.clear()
        listener.stage("measuring")
        watch = Watch(lm, listener)
        began_s = time.perf_counter()
        trace = tokens_to_keep(plan) if rolls(lm.schedule) else True  # of a whole job there are too many tasks
        done = generate(ready, lm, watch, trace=trace)
        refuse_broken(done.broken, done.tokens, lm.dtype)  # what is no number may be quicker, too
        report = _report(ready, lm, done, watch, load_s, time.perf_counter() - began_s)
    device_peak = int(torch.cuda.max_memory_allocated(ready.env.device)) if on_device else None
    measured, moved = reduce(Timeline.and_then, done.timelines), _moved(blocks, lm.env.ledger)
    bound_s, limit = whole_bound(plan)
    recording = _recording(ready, plan, watch, report, (bound_s, limit)) if ready.request.record else None
    usage = watch.mean.usage
    return BenchReport(plan, predicted, measured, report, moved, device_peak, recording, usage, bound_s, limit)


def _recording(ready: Ready, plan: Plan, watch: Watch, report: RunReport, bound: tuple[float, str]) -> Recording:
    recorder = Recorder(plan)
    for measured in report.timelines:
        recorder.block_ended(measured)
    return recorder.recording(ready, watch, report.num_tokens, report.load_s, bound)


def _blocks(plan: Plan) -> list[tuple[Plan, float]]:
    """Plans of a job's kinds of blocks, of very many a few, and how many blocks each stands for."""
    if rolls(schedule_of(plan.schedule)):
        return [(plan, 1)]
    few = few_kinds(plan.problem.workload, plan.policy)
    if sum(few.values()) == 1:
        return [(plan, 1)]
    return [(_of_block(plan, kind), times) for kind, times in few.items()]


def _foretold(blocks: Sequence[tuple[Plan, float]]) -> Timeline:
    """The blocks one after the other, with the tasks of the first."""
    (plan, times), *others = blocks
    found = simulate(plan)
    found = found if times == 1 else found.and_then(found, times - 1)
    return reduce(lambda sums, each: sums.and_then(simulate(each[0], keep=False), each[1]), others, found)


def _of_block(plan: Plan, kind: BlockKind) -> Plan:
    """The same plan for the prompts of one block."""
    return plan.under(plan.problem.model_copy(update={"workload": kind.workload}))


def _moved(blocks: Sequence[tuple[Plan, float]], ledger: Ledger) -> dict[str, tuple[int, int]]:
    """Bytes by resource: of the plans of all blocks, and as counted in the I/O layer."""
    planned, counted = dict.fromkeys(MOVES, 0.0), dict.fromkeys(MOVES, 0)
    for plan, times in blocks:
        for task in plan.graph.tasks():
            for name in MOVES:
                planned[name] += times * int(getattr(task.work, name))
    for (resource, _), nbytes in ledger.moved.items():
        if resource in counted:
            counted[resource] += nbytes
    return {name: (round(planned[name]), counted[name]) for name in MOVES}


@contextmanager
def loaded(ready: Ready, listener: Listener) -> Iterator[tuple[OffloadedLM, Watch, float]]:
    """The model of a request, who watches what it holds, and the seconds that loading its weights took."""
    began_s = time.perf_counter()
    listener.stage("loading weights")
    with open_lm(ready) as lm:
        yield lm, Watch(lm, listener), time.perf_counter() - began_s


def open_lm(ready: Ready) -> OffloadedLM:
    """The model of a request, its weights loaded."""
    request = ready.request
    return OffloadedLM(
        ready.opened,
        ready.env,
        ready.weights,
        ready.policy,
        schedule=ready.schedule,
        dtype=ready.dtype,
        seed=request.seed,
        packed_cache=request.packed_cache,
        expected=ready.expected,
    )


def generate(ready: Ready, lm: OffloadedLM, watch: Watch, *, trace: Trace = False) -> Generation:
    """All prompts of a request."""
    sampling, stops = ready.sampling, ready.stops
    most, lengths = ready.new_tokens, ready.request.dummy_lengths
    prompts: Sequence[Sequence[int] | Request] = ready.requests.ids
    if lengths is not None and lengths.ends:
        ends = [lengths.ends[at] for at in ready.requests.at]
        prompts = [Request(ids, ends_after=end) for ids, end in zip(ready.requests.ids, ends, strict=True)]
    return lm.complete(prompts, most, sampling=sampling, stops=stops, progress=watch, trace=trace)


class Watch:
    """Sees how far a model is and what its tiers hold each time tokens arrive, and passes it on."""

    def __init__(self, lm: OffloadedLM, listener: Listener) -> None:
        self.lm = lm
        self.ledger = lm.env.ledger
        self.listener = listener
        self.peak_bytes = {"gpu": 0, "cpu": 0, "disk": 0}
        self.samples: list[Sample] = []  # from when it began to look
        self.mean = UsageMean()
        self.standing: list[tuple[float, int, int, int]] = []  # of every so many passes
        self.largest = Standing(0, 0, 0, 0, 0, 0)
        self._passes, self._every = 0, 1
        self._began_s = time.perf_counter()
        self._look()

    def __call__(self, done: int, total: int) -> None:
        self._look()
        now = self.lm.standing
        self._count(now)
        self.listener.standing(now)
        self.listener.tokens(done, total)

    def _count(self, now: Standing) -> None:
        """One more pass; of very many, some are kept."""
        self.mean.add(now)
        self.largest = max(self.largest, now, key=lambda one: one.reserved)
        if self._passes % self._every == 0:
            self.standing.append((time.perf_counter() - self._began_s, now.tokens, now.live, now.held))
        self._passes += 1
        if len(self.standing) > _MOST_KEPT:
            self.standing, self._every = self.standing[::2], 2 * self._every

    def _look(self) -> None:
        held = dict.fromkeys(self.peak_bytes, 0)
        for arena, nbytes in dict(self.ledger.held).items():
            held[tier_of(arena)] += nbytes
        self.peak_bytes = {tier: max(self.peak_bytes[tier], nbytes) for tier, nbytes in held.items()}
        self._note(time.perf_counter() - self._began_s, *held.values())

    def _note(self, at_s: float, gpu: int, cpu: int, disk: int) -> None:
        """Where something has changed; the last look of what has not, too."""
        if len(self.samples) > 1 and self.samples[-1][1:] == self.samples[-2][1:] == (gpu, cpu, disk):
            self.samples.pop()
        self.samples.append((at_s, gpu, cpu, disk))


def _report(ready: Ready, lm: OffloadedLM, done: Generation, watch: Watch, load_s: float, run_s: float) -> RunReport:
    return RunReport(
        completions=completions(ready, done),
        load_s=load_s,
        run_s=run_s,
        timelines=tuple(done.timelines),
        realised=dict(lm.realised()),
        peak_bytes=watch.peak_bytes,
        dtype=str(lm.dtype).removeprefix("torch."),
    )


def completions(ready: Ready, done: Generation) -> tuple[Completion, ...]:
    """New tokens as people read them."""
    found, requests = [], ready.requests
    for n, new in enumerate(done.tokens):
        prompt, ids = requests.prompt(n), requests.ids[n]
        choice = Choice(ready.tokenizer.decode(new, after=ids), tuple(new), _reason(ready, new, n in done.broken))
        found.append(Completion(prompt.id, prompt.content, (choice,), len(ids)))
    return tuple(found)


def _reason(ready: Ready, new: Sequence[int], is_broken: bool) -> str:
    if is_broken:
        return "error"
    return "stop" if new and new[-1] in ready.stops else "length"
