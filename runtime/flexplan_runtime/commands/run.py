"""A request that was found right, run: its prompts completed, or one block measured."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from flexplan.graph import Timeline, tier_of
from flexplan.job import BenchReport, Choice, Completion, Listener, Recording, RunReport
from flexplan.plan import Plan, simulate
from flexplan.schedule import rolls
from flexplan_runtime.commands.prepare import Ready
from flexplan_runtime.commands.recorder import Recorder, Sample
from flexplan_runtime.generate import Generation, OffloadedLM, refuse_broken
from flexplan_runtime.memory import Ledger

MOVES = ("up_bytes", "down_bytes", "read_bytes", "write_bytes")


def run_ready(ready: Ready, listener: Listener) -> RunReport:
    """Load the weights and complete the prompts."""
    with loaded(ready, listener) as (lm, watch, load_s):
        listener.stage("generating")
        began_s = time.perf_counter()
        done = generate(ready, lm, watch)
        return _report(ready, lm, done, watch, load_s, time.perf_counter() - began_s)


def bench_ready(ready: Ready, plan: Plan, listener: Listener) -> BenchReport:
    """A short run to warm up, then the block that counts."""
    predicted = simulate(plan)
    on_device = ready.env.device.type == "cuda"
    if on_device:
        torch.cuda.reset_peak_memory_stats(ready.env.device)
    with loaded(ready, listener) as (lm, _, load_s):
        listener.stage("warming up")
        lm.complete(ready.requests.ids[: 2 * ready.policy.block_size], min(2, ready.request.max_new_tokens))
        lm.env.ledger.moved.clear()
        listener.stage("measuring")
        watch = Watch(lm.env.ledger, listener)
        began_s = time.perf_counter()
        done = generate(ready, lm, watch, trace=not rolls(lm.schedule))  # of a whole job there are too many tasks
        refuse_broken(done.broken, done.tokens, lm.dtype)  # what is no number may be quicker, too
        report = _report(ready, lm, done, watch, load_s, time.perf_counter() - began_s)
    device_peak = int(torch.cuda.max_memory_allocated(ready.env.device)) if on_device else None
    measured, moved = done.timelines[0], _moved(plan, lm.env.ledger)
    recording = _recording(ready, plan, measured, watch, report) if ready.request.record else None
    return BenchReport(plan, predicted, measured, report, moved, device_peak, recording)


def _recording(ready: Ready, plan: Plan, measured: Timeline, watch: Watch, report: RunReport) -> Recording:
    recorder = Recorder(plan)
    recorder.block_ended(measured)
    return recorder.recording(ready, watch.samples, report.num_tokens, report.load_s)


def _moved(plan: Plan, ledger: Ledger) -> dict[str, tuple[int, int]]:
    """Bytes by resource: of the plan's first block, and as counted in the I/O layer."""
    planned, counted = dict.fromkeys(MOVES, 0), dict.fromkeys(MOVES, 0)
    for task in plan.graph.tasks():
        for name in MOVES:
            planned[name] += int(getattr(task.work, name))
    for (resource, _), nbytes in ledger.moved.items():
        if resource in counted:
            counted[resource] += nbytes
    return {name: (planned[name], counted[name]) for name in MOVES}


@contextmanager
def loaded(ready: Ready, listener: Listener) -> Iterator[tuple[OffloadedLM, Watch, float]]:
    """The model of a request, who watches what it holds, and the seconds that loading its weights took."""
    began_s = time.perf_counter()
    listener.stage("loading weights")
    with open_lm(ready) as lm:
        yield lm, Watch(lm.env.ledger, listener), time.perf_counter() - began_s


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


def generate(ready: Ready, lm: OffloadedLM, watch: Watch, *, trace: bool = False) -> Generation:
    """All prompts of a request."""
    sampling, stops = ready.sampling, ready.stops
    most = ready.new_tokens
    return lm.complete(ready.requests.ids, most, sampling=sampling, stops=stops, progress=watch, trace=trace)


class Watch:
    """Sees what the tiers hold each time tokens arrive, and passes the count on."""

    def __init__(self, ledger: Ledger, listener: Listener) -> None:
        self.ledger = ledger
        self.listener = listener
        self.peak_bytes = {"gpu": 0, "cpu": 0, "disk": 0}
        self.samples: list[Sample] = []  # from when it began to look
        self._began_s = time.perf_counter()
        self._look()

    def __call__(self, done: int, total: int) -> None:
        self._look()
        self.listener.tokens(done, total)

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
