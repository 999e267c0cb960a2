"""Requests: what was typed, made into a `RunRequest`; its gaps are filled from the plan."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any, Literal

from flexplan.errors import UsageError
from flexplan.job.runtime import RunRequest
from flexplan.plan import Plan
from flexplan.policy import Policy
from flexplan.problem.prompts import Prompts
from flexplan.units import format_size, parse_size

DEFAULT_NEW_TOKENS = 32


def budget_bytes(asked: Mapping[str, str | None]) -> dict[str, int | None]:
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


def refuse_idle_sampling(request: RunRequest, prompts: Prompts | None) -> None:
    """Raise UsageError for settings of draws where nothing is drawn: not by the flag, nor by a line for itself."""
    if not request.do_sample and not (prompts is not None and prompts.draws):
        _refuse_idle({name: getattr(request, name) for name in ("temperature", "top_k", "top_p")}, "do_sample")


def refuse_idle_format(form: str | None, prompts: str | None) -> None:
    """Raise UsageError for a format of prompts where there are none."""
    if prompts is None:
        _refuse_idle({"format": form}, "prompts")


def refuse_idle_prompt_len(prompt_len: int | None, prompts: str | None) -> None:
    """Raise UsageError for a length of random prompts where prompts are given."""
    if prompts is not None:
        _refuse_idle({"prompt_len": prompt_len}, "prompts", "with")


def refuse_idle_cluster(ray: bool, asked: Mapping[str, Any]) -> None:
    """Raise UsageError for settings of a cluster where there is none."""
    if not ray:
        _refuse_idle(asked, "ray")


def refuse_idle_packed_cache(policy: Policy, directory: object, *, dummy: bool = False) -> None:
    """Raise UsageError for a directory of packed weights where none would be kept there."""
    if directory is not None and (dummy or not policy.compress_weight):
        why = "random weights (--dummy)" if dummy else "a policy that packs no weights (compress_weight)"
        message = f"--packed-cache {directory} with {why} would change nothing"
        raise UsageError("FP139", message, fix="leave --packed-cache out, or take a policy with compress_weight: true")


def _refuse_idle(asked: Mapping[str, Any], other: str, how: Literal["with", "without"] = "without") -> None:
    idle = [_flag(name) for name, value in asked.items() if value is not None]
    if idle:
        message = f"{', '.join(idle)} {how} {_flag(other)} would change nothing"
        fix = f"add {_flag(other)}, or leave it out" if how == "without" else "leave one of them out"
        raise UsageError("FP165", message, fix=fix)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


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
    chosen = policy.policy if isinstance(policy, Plan) else policy
    refuse_idle_packed_cache(chosen, settings.get("packed_cache"), dummy=bool(settings.get("dummy")))
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
