"""Jobs: what the commands that need a runtime do around it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flexplan.errors import NoNumbers, UsageError
from flexplan.hardware import Hardware
from flexplan.outfiles import deliver, refuse_existing, refuse_unwritable
from flexplan.plan import Plan
from flexplan.policy import Policy
from flexplan.progress import Progress
from flexplan.promptfile import Prompt, read_prompts
from flexplan.running import BenchReport, Completion, DemoReport, RunReport, RunRequest, find_runtime
from flexplan.strictjson import json_line
from flexplan.tables import per_second
from flexplan.timeline import Timeline
from flexplan.units import format_duration, format_size, parse_size

DEFAULT_NEW_TOKENS = 32
_LINE_BYTES = 90  # of an output line, beside the prompt and its answer


# -- what was typed ----------------------------------------------------------------------------------------------
def sizes(asked: Mapping[str, str | None]) -> dict[str, int | None]:
    """Budgets in bytes; more host memory than this machine seems to have is a warning, as it may grow."""
    found = {tier: None if size is None else parse_size(size) for tier, size in asked.items()}
    machine, cpu = _machine_bytes(), found.get("cpu")
    if cpu is not None and machine is not None and cpu > machine:
        message = f"--cpu-mem {format_size(cpu)} is more than this machine's memory, {format_size(machine)}"
        warnings.warn(message, stacklevel=2)
    return found


def _machine_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def refuse_idle_sampling(do_sample: bool, asked: Mapping[str, Any]) -> None:
    """Raise UsageError for sampling settings that would change nothing."""
    idle = [f"--{name.replace('_', '-')}" for name, value in asked.items() if value is not None and not do_sample]
    if idle:
        message = f"{', '.join(idle)} without --do-sample would change nothing"
        raise UsageError("FP165", message, fix="add --do-sample, or leave it out")


def request_of(
    policy: Policy | Plan,
    model: str | None,
    budgets: Mapping[str, int | None],
    *,
    max_new_tokens: int | None,
    dummy_prompt_len: int | None,
    **settings: Any,
) -> RunRequest:
    """A request whose gaps are filled from the plan."""
    plan = policy if isinstance(policy, Plan) else None
    name = model or (plan.problem.model.name if plan else None)
    if name is None:
        raise UsageError("FP166", "the policy file names no model", fix="give --model DIR_OR_NAME")
    work = plan.problem.workload if plan else None
    new_tokens = max_new_tokens if max_new_tokens is not None else (work.gen_len if work else DEFAULT_NEW_TOKENS)
    if new_tokens < 1:
        raise UsageError("FP167", f"--max-new-tokens {new_tokens}, allowed 1 or more", fix="raise it")
    if dummy_prompt_len is not None and dummy_prompt_len < 1:
        raise UsageError("FP168", f"--prompt-len {dummy_prompt_len}, allowed 1 or more", fix="raise it")
    planned = capacities_of(plan) if plan else {}
    return RunRequest(
        policy=policy,
        model=name,
        budgets={tier: planned.get(tier) if size is None else size for tier, size in budgets.items()},
        max_new_tokens=new_tokens,
        dummy_prompt_len=dummy_prompt_len or (work.prompt_len if work else None),
        **settings,
    )


def capacities_of(plan: Plan) -> dict[str, int]:
    """Bytes of each tier that a plan was allowed, what the device keeps for itself included."""
    machine = plan.problem.hardware
    return {"gpu": machine.gpu_bytes, "cpu": machine.cpu_bytes, "disk": machine.disk_bytes}


# -- run ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class OutputFile:
    """Where a job writes, what it reads, and whether what is there may be replaced."""

    path: Path
    inputs: tuple[str | None, ...] = ()
    overwrite: bool = False

    def refuse(self, prompts: Iterable[Prompt]) -> None:
        """Raise what can be known before the work; an answer repeats its prompt."""
        at_least_bytes = sum(len(prompt.content) + _LINE_BYTES for prompt in prompts)
        refuse_unwritable(self.path, self.inputs, at_least_bytes)
        if not self.overwrite:
            refuse_existing(self.path)


def run_to_file(request: RunRequest, prompts: str | None, output: OutputFile) -> None:
    """Read the prompts, run them and write one JSON line each."""
    given = None if prompts is None else read_prompts(prompts)
    output.refuse(given or ())
    if given == ():
        print("there are no prompts", file=sys.stderr)
        deliver(output.path, "")
        return
    with Progress() as progress:
        report = find_runtime().run(replace(request, prompts=given or ()), progress)
    lines = "".join(completion_line(c) for c in report.completions)
    deliver(output.path, lines, (request.offload_dir,))
    print(_summary(report), file=sys.stderr)
    _refuse_broken(report)


def _refuse_broken(report: RunReport) -> None:
    """Raise NoNumbers, the output being written, where a prompt could not be completed."""
    broken = [c for c in report.completions if c.finish_reason == "error"]
    if broken:
        names = ", ".join(repr(c.id)[:60] for c in broken[:10]) + (", ..." if len(broken) > 10 else "")
        raise NoNumbers(
            "FP1102",
            f"the logits of {len(broken)} of {len(report.completions)} prompts became NaN or infinite in "
            f"{report.dtype}: id {names}; in the output their finish_reason is error, all others are whole",
            fix="give --dtype bfloat16 or float32, or look for damaged weights",
        )


def completion_line(completion: Completion) -> str:
    """One line of the output."""
    found = {
        "id": completion.id,
        "prompt": completion.prompt,
        "text": completion.text,
        "token_ids": completion.token_ids,
        "finish_reason": completion.finish_reason,
        "num_prompt_tokens": completion.num_prompt_tokens,
    }
    return json_line(found) + "\n"


def _summary(report: RunReport) -> str:
    rate = per_second(report.num_tokens, report.run_s)
    peaks = ", ".join(f"{tier} {format_size(nbytes)}" for tier, nbytes in report.peak_bytes.items())
    return (
        f"{len(report.completions):,} prompts, {report.num_tokens:,} new tokens in {format_duration(report.run_s)} "
        f"({rate:.2f} tokens/s), weights loaded in {format_duration(report.load_s)}\nmemory at its highest: {peaks}"
    )


# -- bench and demo ----------------------------------------------------------------------------------------------
def bench(request: RunRequest, hardware: Hardware | None) -> BenchReport:
    """One block, predicted and measured."""
    with Progress() as progress:
        return find_runtime().bench(request, hardware, progress)


def demo() -> DemoReport:
    """The embedded model, from plan to tokens."""
    with Progress() as progress:
        return find_runtime().demo(lambda line: print(line, file=sys.stderr), progress)


def bench_object(report: BenchReport) -> dict[str, Any]:
    """A bench as plain data."""
    rows = len(report.run.completions) * report.plan.problem.workload.gen_len
    return {
        "predicted": _timeline_object(report.predicted, rows),
        "measured": _timeline_object(report.measured, rows),
        "gap_percent": 100 * (report.measured.end_s / report.predicted.end_s - 1),
        "planned_peak_bytes": report.plan.prediction.peak_bytes,
        "held_peak_bytes": dict(report.run.peak_bytes),
        "device_peak_bytes": report.device_peak_bytes,
        "moved_bytes": {name: {"planned": plan, "counted": real} for name, (plan, real) in report.moved.items()},
        "placement": {
            "asked": {what: [100 * s for s in report.plan.policy.shares(what)] for what in report.run.realised},
            "realised": {what: list(shares) for what, shares in report.run.realised.items()},
        },
        "policy": report.plan.policy.to_dict(),
        "hardware": report.plan.problem.hardware.name,
        "dtype": report.run.dtype,
    }


def _timeline_object(timeline: Timeline, num_tokens: int) -> dict[str, Any]:
    return {
        "prefill_s": timeline.prefill_s,
        "decode_s": timeline.decode_s,
        "total_s": timeline.end_s,
        "tokens_per_s": per_second(num_tokens, timeline.end_s),
        "lane_busy_s": dict(timeline.lane_busy_s),
    }


def demo_object(report: DemoReport) -> dict[str, Any]:
    """A demo as plain data."""
    completions = next(iter(report.runs.values())).run.completions
    return {
        "tokens_equal": report.tokens_equal,
        "model_bytes": report.model_bytes,
        "completions": [{"prompt": c.prompt, "text": c.text} for c in completions],
        "runs": {name: bench_object(run) for name, run in report.runs.items()},
        "timed": {"model": report.timed.plan.problem.model.name, **bench_object(report.timed)},
    }
