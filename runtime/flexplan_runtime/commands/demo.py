"""The demo: the embedded model, planned for budgets smaller than itself, run on three tiers, and compared.

Its tasks take microseconds, less than threads of other lanes keep a core from them: placement is shown on it, and time
on a larger model with random weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from flexplan.files import workshop
from flexplan.hardware import Hardware
from flexplan.job import BenchReport, DemoReport, Listener, RunRequest, Say
from flexplan.model import weight_bytes
from flexplan.plan import Plan, solve
from flexplan.policy import Policy
from flexplan.problem.prompts import Prompt
from flexplan.units import GiB, KiB, MiB, format_size
from flexplan_runtime.commands.prepare import make_ready
from flexplan_runtime.commands.run import bench_ready, run_ready
from flexplan_runtime.embedded import tiny_opt_path
from flexplan_runtime.measure import SHORT_ON_CPU, SHORT_ON_CUDA, measure

PROMPTS = (
    "The with statement",
    "A class definition",
    "An exception is raised when",
    "The import system",
    "A coroutine",
    "If the expression list contains",
    "The global statement",
    "Each item in a list",
)
NEW_TOKENS = 24
BUDGETS = {"gpu": 4 * MiB, "cpu": 3500 * KiB, "disk": 64 * MiB}  # the weights alone are 4.3 MiB in float32
ONE_TIER = Policy(gpu_batch_size=2, num_gpu_batches=4, overlap=False)
THREE_TIERS = Policy(
    gpu_batch_size=2,
    num_gpu_batches=4,
    w_gpu_percent=10,
    w_cpu_percent=30,
    cache_gpu_percent=40,
    cache_cpu_percent=30,
    cpu_cache_compute=True,
)


@dataclass(frozen=True)
class Timed:
    """A model whose tasks take a millisecond or more on such a machine, and room for a part of it."""

    model: str
    dtype: str
    prompt_len: int
    new_tokens: int
    budgets: Mapping[str, int]


TIMED_ON_HOST = Timed("facebook/opt-125m", "float32", 64, 8, {"gpu": 350 * MiB, "cpu": 640 * MiB, "disk": 2 * GiB})
TIMED_ON_CUDA = Timed("facebook/opt-1.3b", "float16", 128, 16, {"gpu": 1 * GiB, "cpu": 4 * GiB, "disk": 8 * GiB})
BY_PLANNER, BY_HAND = "the planner's choice", "every tier at work"


def show_demo(say: Say, listener: Listener) -> DemoReport:
    """Measure, plan, run with everything on one tier, run the plans, compare the tokens."""
    with workshop(Path(tempfile.gettempdir())) as scratch:
        return _show(scratch, say, listener)


def _show(scratch: Path, say: Say, listener: Listener) -> DemoReport:
    say("measuring this machine, quickly")
    sizes = SHORT_ON_CUDA if torch.cuda.is_available() else SHORT_ON_CPU
    hardware = measure(None, scratch, lambda line: say(line) if line.startswith("warning") else None, sizes)
    whole = make_ready(_request(ONE_TIER, scratch))
    say(f"{whole.shape.name} is {format_size(weight_bytes(whole.shape))} of weights in float32; running it on one tier")
    expected = [c.token_ids for c in run_ready(whole, listener).completions]
    budgets = " and ".join(f"{format_size(BUDGETS[tier])} of {tier} memory" for tier in ("gpu", "cpu"))
    say(f"planning for {budgets}, the rest on disk")
    runs: dict[str, BenchReport] = {}
    for name, plan in _plans(scratch, hardware, say).items():
        ready = make_ready(_request(plan, scratch))
        runs[name] = bench_ready(ready, plan, listener)
    equal = all([c.token_ids for c in report.run.completions] == expected for report in runs.values())
    return DemoReport(runs, weight_bytes(whole.shape), equal, _timed(scratch, hardware, say, listener))


def _timed(scratch: Path, hardware: Hardware, say: Say, listener: Listener) -> BenchReport:
    """A model that does not fit, predicted and measured."""
    timed = TIMED_ON_HOST if hardware.host_only else TIMED_ON_CUDA
    request = RunRequest(
        policy=ONE_TIER,
        model=timed.model,
        offload_dir=scratch,
        dtype=timed.dtype,
        max_new_tokens=timed.new_tokens,
        stop_at_end_token=False,
        dummy=True,
        dummy_prompt_len=timed.prompt_len,
    )
    whole = make_ready(request).problem(hardware)
    room = " and ".join(f"{format_size(timed.budgets[tier])} of {tier} memory" for tier in ("gpu", "cpu"))
    say(f"{timed.model}, {format_size(weight_bytes(whole.model))} of random weights: planning for {room}")
    plan = solve(whole.with_budgets(**timed.budgets))
    ready = make_ready(replace(request, policy=plan, budgets=timed.budgets))
    return bench_ready(ready, plan, listener)


def _plans(scratch: Path, hardware: Hardware, say: Say) -> dict[str, Plan]:
    """The planner's answer; and by hand, where that leaves a tier without weights or without KV cache."""
    problem = make_ready(replace(_request(THREE_TIERS, scratch), budgets=BUDGETS)).problem(hardware)
    chosen = solve(problem)
    if all(share > 1 for what in ("w", "cache") for share in chosen.realised[what]):
        return {BY_PLANNER: chosen}
    say("the planner leaves some tier without weights or KV cache; percents by hand put both on all three")
    return {BY_PLANNER: chosen, BY_HAND: Plan.of(problem, THREE_TIERS)}


def _request(policy: Policy | Plan, scratch: Path) -> RunRequest:
    return RunRequest(
        policy=policy,
        model=str(tiny_opt_path()),
        prompts=tuple(Prompt(n, text, n + 1) for n, text in enumerate(PROMPTS)),
        budgets=BUDGETS if isinstance(policy, Plan) else {},
        offload_dir=scratch,
        dtype="float32",
        max_new_tokens=NEW_TOKENS,
        stop_at_end_token=False,  # so that every row is as long as planned
    )
