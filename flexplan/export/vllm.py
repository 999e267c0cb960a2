"""A plan as flags of vLLM: weights that stay on the host, and how many sequences have their cache on the GPU."""

from __future__ import annotations

from math import ceil

from flexplan.export.base import DENSE, Export, asked_percents, no_counterpart, percents, refuse
from flexplan.model import weight_bytes
from flexplan.plan import Plan
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.units import GiB, format_size

SYSTEM = "vllm"

_NO_DISK = {"w_disk_percent": 0.0, "cache_disk_percent": 0.0}


def vllm_flags(plan: Plan) -> Export:
    """Flags of ``vllm serve`` and ``vllm bench``.

    vLLM attends on the GPU only, so as many sequences run at a time as have their keys and values there; what
    the plan has in host memory becomes room for those that wait.  Raises PolicyError for what has no counterpart.
    """
    problem, policy = plan.problem, plan.policy
    refuse(SYSTEM, policy, _NO_DISK, "plan with --disk-mem 0")
    refuse(SYSTEM, policy, DENSE)
    gpu, cpu, _ = policy.shares("cache")
    running = int(policy.block_size * gpu + 1e-9)
    if not running:
        raise no_counterpart(
            SYSTEM,
            f"cache_gpu_percent {100 * gpu:g} of a block of {policy.block_size}: not one sequence has its cache there",
            "plan with a larger --gpu-mem, or with planner manual and a share of the cache on the GPU",
        )
    workload, weights = problem.workload, weight_bytes(problem.model)
    words = ["--max-num-seqs", str(running), "--max-model-len", str(workload.prompt_len + workload.gen_len)]
    on_host = policy.shares("w")[1] * weights
    if on_host:
        words += ["--cpu-offload-gb", f"{_hundredths(on_host):.2f}"]
    waiting = cpu * policy.block_size * problem.model.cache_bytes(workload.prompt_len + workload.gen_len)
    if waiting:
        words += ["--kv-offloading-backend", "native", "--kv-offloading-size", f"{_hundredths(waiting):.2f}"]
    given = {"w": percents((weights - on_host, on_host, 0)), "cache": percents((gpu, cpu, 0))}
    return Export(SYSTEM, words, asked_percents(policy), given, _differences(problem, policy, running))


def _hundredths(nbytes: float) -> float:
    """GiB, rounded up: the GPU gets no more than its share."""
    return ceil(nbytes / GiB * 100 - 1e-9) / 100


def _differences(problem: Problem, policy: Policy, running: int) -> tuple[str, ...]:
    budget, block = format_size(problem.hardware.gpu_bytes), policy.block_size
    said = [f"vLLM takes a share of the card's memory: give the --gpu-memory-utilization that is {budget}"]
    if running < block:
        said.append(f"vLLM runs {running} sequences at a time, the plan {block}: those with a cache on the host wait")
    if policy.w_gpu_percent < 100:
        said.append("vLLM reads host weights during each pass for what runs, the plan once for the whole block")
    if policy.act_gpu_percent < 100:
        said.append("vLLM keeps activations on the GPU")
    return tuple(said)
