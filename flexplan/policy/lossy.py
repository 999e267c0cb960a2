"""What changes the tokens: policy fields that a planner may only set where the user allows it by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flexplan.errors import UsageError, did_you_mean
from flexplan.policy.policy import Policy

LOSSY: Mapping[str, str] = {  # name -> policy field
    "4bit-weights": "compress_weight",
    "4bit-cache": "compress_cache",
    "sparse": "attn_sparsity",
}


def allowed_fields(names: Iterable[str]) -> dict[str, Any]:
    """The policy fields behind these names, with the value that each may be given.

    Sparse attention is allowed at one share of the values, as in ``sparse:0.1``.  An unknown name is a UsageError,
    a share outside (0, 1] a PolicyError.

    >>> allowed_fields(["4bit-cache", "sparse:0.1"])
    {'compress_cache': True, 'attn_sparsity': 0.1}
    """
    fields = dict(_allowed(name.strip()) for name in names if name.strip())
    Policy(**fields)
    return fields


def lossy_fields(policy: Policy) -> dict[str, Any]:
    """The lossy fields that a policy sets, with their values."""
    plain = Policy()
    return {
        field: getattr(policy, field) for field in LOSSY.values() if getattr(policy, field) != getattr(plain, field)
    }


def names_of(fields: Mapping[str, Any]) -> list[str]:
    """The names that allow these policy fields.

    >>> names_of({"attn_sparsity": 0.1})
    ['sparse:0.1']
    """
    return [name if fields[f] is True else f"{name}:{fields[f]:g}" for name, f in LOSSY.items() if f in fields]


def _allowed(asked: str) -> tuple[str, Any]:
    name, colon, share = asked.partition(":")
    if name not in LOSSY:
        fix = did_you_mean(name, LOSSY, f"the names are {', '.join(LOSSY)}")
        raise UsageError("FP115", f"--allow {asked}: nothing is called that", fix=fix)
    if (name == "sparse") != bool(colon):
        fix = "sparse takes the share of the values that are read, as in sparse:0.1; the others take nothing"
        raise UsageError("FP115", f"--allow {asked} does not read", fix=fix)
    try:
        return LOSSY[name], float(share) if colon else True
    except ValueError:
        raise UsageError("FP115", f"--allow {asked}: {share!r} is no number", fix="as in sparse:0.1") from None
