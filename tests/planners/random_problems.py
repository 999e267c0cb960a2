"""Problems of real models on machines that are too small for them, drawn by number."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count as forever

from flexplan.errors import InfeasiblePlan
from flexplan.plan import Plan, solve
from flexplan.policy import Policy
from flexplan.problem import Problem

MODELS = (
    "facebook/opt-6.7b",
    "facebook/opt-30b",
    "Qwen/Qwen2.5-32B",
    "mistralai/Mixtral-8x7B-v0.1",
    "meta-llama/Llama-3.1-70B",
    "meta-llama/Llama-3.1-8B",
)
MACHINES = ("rtx4090", "rtx3090", "a100-pcie4", "h100-pcie5", "t4-gcp")
_FACTORS = (2, 1.5, 1.25, 0.8, 0.667, 0.5)
_MOST_BATCHES = 128
_MOST_ROWS = 1 << 18


def how_many(default: int) -> range:
    """Numbers of the problems to try; FLEXPLAN_LAWS asks for more."""
    return range(int(os.environ.get("FLEXPLAN_LAWS", default)))


def solved(number: int, gen_lens: tuple[int, ...] = (1, 2, 32, 128), effort: str = "normal") -> Plan:
    """The answer to problem ``number``: the first of its draws that has one."""
    draw = random.Random(number)
    for _ in forever():
        asked = Problem.of(
            draw.choice(MODELS),
            hardware=draw.choice(MACHINES),
            gpu_mem=f"{draw.choice([4, 6, 8, 12, 16, 24])}G",
            cpu_mem=f"{draw.choice([64, 128, 200, 400])}G",
            disk_mem=draw.choice(["0", "500G"]),
            prompt_len=draw.choice([8, 64, 512, 1900]),
            gen_len=draw.choice(gen_lens),
            num_prompts=draw.choice([None, 100, 1000]),
        )
        try:
            return solve(asked, effort=effort)
        except InfeasiblePlan:
            continue
    raise AssertionError


def raised(problem: Problem, number: int) -> tuple[str, Problem]:
    """The same problem with more of a budget, or a faster part, and what that is."""
    draw, hardware = random.Random(number), problem.hardware.model_dump()
    if draw.random() < 0.4:
        tier, times = draw.choice(["gpu", "cpu"]), draw.choice([1.1, 1.25, 1.5])
        return f"{tier} memory x {times}", problem.with_budgets(**{tier: int(hardware[f"{tier}_bytes"] * times)})
    rates = [name for name, rate in hardware.items() if name.endswith("_per_s") and rate]
    name, times = draw.choice(rates), draw.choice([1.1, 1.5])
    faster = problem.hardware.model_copy(update={name: hardware[name] * times})
    return f"{name} x {times}", problem.model_copy(update={"hardware": faster})


def neighbours(policy: Policy) -> Iterator[Policy]:
    """Other blocks up to 128 micro-batches, activations on the host, other switches, other shares."""
    size, n = policy.gpu_batch_size, policy.num_gpu_batches
    on_host = {"act_gpu_percent": 0.0, "act_cpu_percent": 100.0}
    blocks = {(max(1, round(size * f)), count) for f in _FACTORS for count in (n, round(n / f), 40)}
    blocks |= {(size, count) for count in (1, n // 2, n - 1, n + 1, 2 * n, 40, 80, _MOST_BATCHES)}
    for rows, count in sorted(blocks):
        if 1 <= count <= _MOST_BATCHES and rows * count <= _MOST_ROWS:
            other = replace(policy, gpu_batch_size=rows, num_gpu_batches=count)
            yield other
            if policy.act_gpu_percent:
                yield replace(other, **on_host)  # type: ignore[arg-type]
    yield from _otherwise(policy, on_host)


def _otherwise(policy: Policy, on_host: dict[str, float]) -> Iterator[Policy]:
    """The same block, another switch or other shares."""
    yield replace(policy, sep_layer=not policy.sep_layer)
    yield replace(policy, cpu_cache_compute=not policy.cpu_cache_compute)
    yield replace(policy, **on_host)  # type: ignore[arg-type]
    yield replace(policy, act_gpu_percent=100.0, act_cpu_percent=0.0)
    for percent in (0.0, 100.0):
        for attends in (True, False):
            shares = {"cache_gpu_percent": percent, "cache_cpu_percent": 100.0 - percent}
            yield replace(policy, **shares, cpu_cache_compute=attends)  # type: ignore[arg-type]
    for what in ("w", "cache"):
        gpu, cpu = (getattr(policy, f"{what}_{tier}_percent") for tier in ("gpu", "cpu"))
        for more in (-20, -5, -2, 2, 5, 20):
            if 0 <= gpu + more <= 100 and 0 <= cpu - more <= 100:
                yield replace(policy, **{f"{what}_gpu_percent": gpu + more, f"{what}_cpu_percent": cpu - more})
