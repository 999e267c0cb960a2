"""The commands that make a report again, from nothing but what is in it."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import join

from flexplan.plan import Plan
from flexplan.policy import Policy, lossy_fields, names_of
from flexplan.problem import Problem

PLAN, HARDWARE = "plan.json", "hardware.json"


def commands(plan: Plan) -> list[str]:
    """What to type, in order; the plan and a measured machine are saved from the report itself."""
    return [join(_solve(plan)), f"flexplan explain {PLAN}", f"flexplan report {PLAN} -o report.html"]


def needs(plan: Plan) -> list[str]:
    """Files that the first of them reads, beside those in the report."""
    return ["the file of prompts that the plan was made for"] if plan.problem.workload.prompt_lens else []


def _solve(plan: Plan) -> Iterator[str]:
    yield from ("flexplan", "solve")
    yield from _asked(plan.problem)
    if plan.planner == "manual":
        yield from _by_hand(plan.policy)
    else:
        yield from ("--planner", plan.planner)
        if names := names_of(lossy_fields(plan.policy)):
            yield from ("--allow", ",".join(names))
    yield from ("--schedule", plan.schedule, "-o", PLAN)


def _asked(problem: Problem) -> Iterator[str]:
    hardware, work = problem.hardware, problem.workload
    yield from ("--model", problem.model.name, "--hardware", hardware.name if hardware.preset else HARDWARE)
    for tier in ("gpu", "cpu", "disk"):
        yield from (f"--{tier}-mem", str(getattr(hardware, f"{tier}_bytes")))
    if work.prompt_lens:
        yield from ("--prompts", "prompts.jsonl")
    else:
        yield from ("--prompt-len", str(work.prompt_len))
        if work.num_prompts:
            yield from ("--num-prompts", str(work.num_prompts))
    yield from ("--gen-len", str(work.gen_len))
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
        flag = name.replace("_", "-")
        yield f"--{flag}" if getattr(policy, name) else f"--no-{flag}"
