"""The demo: the embedded model, planned for budgets smaller than itself, run on three tiers, and compared."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from flexplan.hardware.machine import Hardware
from flexplan.job.runtime import BenchReport, DemoReport, Listener, RunRequest, Say
from flexplan.model.tensors import weight_bytes
from flexplan.plan.plan import Plan
from flexplan.plan.planner import solve
from flexplan.policy.policy import Policy
from flexplan.problem.prompts import Prompt
from flexplan.units import KiB, MiB, format_size
from flexplan_runtime.commands.prepare import make_ready
from flexplan_runtime.commands.run import bench_ready, run_ready
from flexplan_runtime.embedded import tiny_opt_path
from flexplan_runtime.measure.microbench import QUICK
from flexplan_runtime.measure.profile import measure

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
BY_PLANNER, BY_HAND = "the planner's choice", "every tier at work"


def show_demo(say: Say, listener: Listener) -> DemoReport:
    """Measure, plan, run with everything on one tier, run the plans, compare the tokens."""
    with tempfile.TemporaryDirectory(prefix="flexplan-demo-") as scratch:
        return _show(Path(scratch), say, listener)


def _show(scratch: Path, say: Say, listener: Listener) -> DemoReport:
    say("measuring this machine, quickly")
    hardware = measure(None, scratch, _nothing, QUICK)
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
    return DemoReport(runs, weight_bytes(whole.shape), equal)


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


def _nothing(line: str) -> None:
    """Says nothing."""
