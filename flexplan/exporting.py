"""Plans for other systems: each exporter by the name that ``flexplan export --to`` takes."""

from __future__ import annotations

import difflib
import json
import shlex

from flexplan import devicemap, llamacpp, vllmflags
from flexplan.errors import UsageError
from flexplan.export import Export
from flexplan.limits import wrong_type
from flexplan.plan import Plan

SYSTEMS = (devicemap.SYSTEM, llamacpp.SYSTEM, vllmflags.SYSTEM)


def export_plan(plan: Plan, to: str) -> Export:
    """The plan in another system's words; a UsageError names what is unknown or has no counterpart."""
    if not isinstance(plan, Plan):
        raise wrong_type("export_plan", "a Plan", plan, "solve(Problem.of(...)) makes one")
    if to == devicemap.SYSTEM:
        return plan.to_device_map().export
    if to == llamacpp.SYSTEM:
        return llamacpp.llama_cpp_arguments(plan.problem, plan.policy, plan.free_bytes)
    if to == vllmflags.SYSTEM:
        return vllmflags.vllm_flags(plan.problem, plan.policy)
    near = difflib.get_close_matches(to, SYSTEMS, 1)
    fix = f"did you mean {near[0]}?" if near else f"the systems are {', '.join(SYSTEMS)}"
    raise UsageError("FP132", f"no exporter is called {to!r}", fix=fix)


def export_text(found: Export) -> str:
    """The settings as they are typed: JSON of a mapping, or quoted words for a shell."""
    return shlex.join(found.settings) if isinstance(found.settings, list) else json.dumps(found.settings, indent=2)
