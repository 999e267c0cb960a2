"""Export: a plan in the words of another system, and how far that is from the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flexplan.errors import PolicyError
from flexplan.policy import Policy

DENSE = {
    "compress_weight": False,
    "compress_cache": False,
    "attn_sparsity": 1.0,
}  # what others do by means of their own
Percents = tuple[float, float, float]  # on the gpu, the cpu and the disk


@dataclass(frozen=True, slots=True)
class Export:
    """``settings`` is what the other system takes: a mapping, or words of its command line.

    ``asked`` and ``given`` are percents of weights and cache by tier, the plan's and what the settings make
    of them; ``differences`` says in sentences what they leave out.
    """

    system: str
    settings: Mapping[str, Any] | list[str]
    asked: Mapping[str, Percents]
    given: Mapping[str, Percents]
    differences: tuple[str, ...]

    def report(self) -> list[str]:
        """Asked beside given, and the differences, a line each."""
        rows = (("weights", "w"), ("KV cache", "cache"))
        shares = [f"{name}: plan {_triple(self.asked[k])}, {self.system} {_triple(self.given[k])}" for name, k in rows]
        return ["percent on gpu / cpu / disk", *shares, *self.differences]


def asked_percents(policy: Policy) -> dict[str, Percents]:
    """What the plan asks of weights and cache."""
    return {what: percents(policy.shares(what)) for what in ("w", "cache")}


def percents(nbytes: Sequence[float]) -> Percents:
    """Bytes of the three tiers as percents of their sum.

    >>> percents((1, 3, 0))
    (25.0, 75.0, 0.0)
    """
    whole = sum(nbytes) or 1
    gpu, cpu, disk = (100 * part / whole for part in nbytes)
    return gpu, cpu, disk


def distance(a: Sequence[float], b: Sequence[float]) -> float:
    """How much lies on another tier, twice."""
    return sum(abs(x - y) for x, y in zip(a, b, strict=True))


def refuse(system: str, policy: Policy, allowed: Mapping[str, Any], fix: str = "") -> None:
    """Raise PolicyError where a field has another value than the one that ``system`` has a counterpart for."""
    for name, value in allowed.items():
        found = getattr(policy, name)
        if found != value:
            raise no_counterpart(system, f"{name} {_spell(found)}", fix or f"plan with {name} {_spell(value)}")


def no_counterpart(system: str, what: str, fix: str) -> PolicyError:
    """The error for a part of a plan that another system cannot express."""
    return PolicyError("FP220", f"{system} has no counterpart of {what}", fix=fix)


def _triple(shares: Percents) -> str:
    return " / ".join(f"{share:.1f}" for share in shares)


def _spell(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"
