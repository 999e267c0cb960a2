"""The commands that make a report again, from nothing but what is in it."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import join

from flexplan.errors import FlexplanError
from flexplan.graph import TIERS
from flexplan.job import Recording
from flexplan.model import model_shape
from flexplan.plan import Plan
from flexplan.policy import Policy, lossy_fields, names_of
from flexplan.problem import Problem, Workload

PLAN, RUN, HARDWARE = "plan.json", "run.json", "hardware.json"
LENGTHS, RUN_LENGTHS = "lengths.csv", "run-lengths.csv"
_MOST_LENGTHS = 10_000  # of a table in a page


def commands(plan: Plan, recording: Recording | None = None) -> list[str]:
    """What to type, in order; the plan and a measured machine are saved from the report itself."""
    report = ["flexplan", "report", PLAN, *([RUN] if recording else []), "-o", "report.html"]
    return [join(_solve(plan)), f"flexplan explain {PLAN}", *(_bench(recording) if recording else ()), join(report)]


def needs(plan: Plan) -> list[str]:
    """What they need beside the files that are in the report."""
    found = [f"the model's directory, for {_model(plan)}"] if _model(plan) != plan.problem.model.name else []
    if len(plan.problem.workload.prompt_lens) > _MOST_LENGTHS:
        found.append(f"the lengths of all prompts: {LENGTHS} has the first {_MOST_LENGTHS:,}")
    return found


def tables(plan: Plan, recording: Recording | None = None) -> dict[str, str]:
    """Files with the lengths of prompts and answers, where they have lengths of their own."""
    works = {LENGTHS: plan.problem.workload}
    if recording and _is_ragged(recording.plan.problem.workload):
        works[RUN_LENGTHS] = recording.plan.problem.workload
    return {name: _table(work) for name, work in works.items() if _has_lengths(work)}


def _table(work: Workload) -> str:
    rows = range(min(work.num_prompts or 0, _MOST_LENGTHS))
    lens = work.prompt_lens[: len(rows)] or (work.prompt_len,) * len(rows)
    each = zip(lens, work.likely_lens_of(rows), work.gen_lens_of(rows), strict=True)
    if not work.expected_lens:
        return "\n".join(["prompt_tokens,new_tokens", *(f"{prompt},{most}" for prompt, _, most in each)]) + "\n"
    lines = (f"{prompt},{likely},{most}" for prompt, likely, most in each)
    return "\n".join(["prompt_tokens,new_tokens,max_tokens", *lines]) + "\n"


def _has_lengths(work: Workload) -> bool:
    return bool(work.prompt_lens or work.gen_lens or (work.expected_lens and work.num_prompts))


def _is_ragged(work: Workload) -> bool:
    return len({*work.prompt_lens}) > 1 or len({*work.gen_lens}) > 1


def _bench(recording: Recording) -> Iterator[str]:
    """The same block measured on prompts of random tokens, which take as long."""
    work = recording.plan.problem.workload
    alike = ["--prompt-len", str(work.prompt_len), "--max-new-tokens", str(work.gen_len)]
    asked = ["--lengths", RUN_LENGTHS] if _is_ragged(work) else alike
    how = ("--dtype", recording.dtype, "--record", RUN)
    yield join(("flexplan", "bench", PLAN, "--model", _model(recording.plan), *asked, *how))


def _model(plan: Plan) -> str:
    """Its name, if it is one that everybody knows; else where somebody has it."""
    name = plan.problem.model.name
    try:
        model_shape(name)
    except FlexplanError:
        return f"path/to/{name}"
    return name


def _solve(plan: Plan) -> Iterator[str]:
    yield from ("flexplan", "solve")
    yield from _asked(plan.problem, _model(plan))
    if plan.planner == "manual":
        yield from _by_hand(plan.policy)
    else:
        yield from ("--planner", plan.planner)
        if names := names_of(lossy_fields(plan.policy)):
            yield from ("--allow", ",".join(names))
    yield from ("--schedule", plan.schedule, "-o", PLAN)


def _asked(problem: Problem, model: str) -> Iterator[str]:
    hardware, work = problem.hardware, problem.workload
    yield from ("--model", model, "--hardware", hardware.name if hardware.preset else HARDWARE)
    for tier in TIERS:
        yield from (f"--{tier}-mem", str(getattr(hardware, f"{tier}_bytes")))
    if _has_lengths(work):
        yield from ("--lengths", LENGTHS)
    else:
        yield from ("--prompt-len", str(work.prompt_len), "--gen-len", str(work.gen_len))
        if work.num_prompts:
            yield from ("--num-prompts", str(work.num_prompts))
    if problem.objective.max_latency_s is not None:
        yield from ("--max-latency", repr(problem.objective.max_latency_s))
    if problem.objective.min_tokens_per_s is not None:
        yield from ("--min-throughput", repr(problem.objective.min_tokens_per_s))


def _by_hand(policy: Policy) -> Iterator[str]:
    yield from ("--planner", "manual", "--gpu-batch-size", str(policy.gpu_batch_size))
    yield from ("--num-gpu-batches", str(policy.num_gpu_batches), "--percent")
    for what in ("w", "cache", "act"):
        for tier in ("gpu", "cpu"):
            yield repr(getattr(policy, f"{what}_{tier}_percent"))
    for name in ("overlap", "sep_layer", "pin_weight", "cpu_cache_compute"):
        flag, value = name.replace("_", "-"), getattr(policy, name)
        if value is not None:
            yield f"--{flag}" if value else f"--no-{flag}"
