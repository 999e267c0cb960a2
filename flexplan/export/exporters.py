"""Plans for other systems: each exporter by the name that ``flexplan export --to`` takes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping

from flexplan.errors import UsageError, did_you_mean
from flexplan.export import llamacpp, vllm
from flexplan.export.base import Export
from flexplan.export.device_map import SYSTEM as DEVICE_MAP
from flexplan.export.device_map import device_map
from flexplan.limits import wrong_type
from flexplan.plan import Plan

_EXPORTERS: Mapping[str, Callable[[Plan], Export]] = {
    DEVICE_MAP: lambda plan: device_map(plan).export,
    llamacpp.SYSTEM: llamacpp.llama_cpp_arguments,
    vllm.SYSTEM: vllm.vllm_flags,
}


def export_plan(plan: Plan, to: str) -> Export:
    """The plan in another system's words; a UsageError names what is unknown or has no counterpart."""
    if not isinstance(plan, Plan):
        raise wrong_type("export_plan", "a Plan", plan, "solve(Problem.of(...)) makes one")
    if to in _EXPORTERS:
        return _EXPORTERS[to](plan)
    fix = did_you_mean(to, _EXPORTERS, f"the systems are {', '.join(_EXPORTERS)}")
    raise UsageError("FP132", f"no exporter is called {to!r}", fix=fix)


def export_text(found: Export) -> str:
    """The settings as they are typed: JSON of a mapping, or quoted words for a shell."""
    return shlex.join(found.settings) if isinstance(found.settings, list) else json.dumps(found.settings, indent=2)
