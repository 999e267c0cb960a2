"""What changes the tokens: switches that a planner may only use where the user allows it by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from flexplan.errors import UsageError
from flexplan.policy import Policy, refuse_unsupported

LOSSY: Mapping[str, str] = {"4bit-weights": "compress_weight", "4bit-cache": "compress_cache"}  # name -> policy field


def allowed_fields(names: Iterable[str]) -> frozenset[str]:
    """The policy fields behind these names; an unknown name is a UsageError, one that nothing runs a PolicyError.

    >>> allowed_fields([])
    frozenset()
    """
    asked = [name.strip() for name in names if name.strip()]
    for name in asked:
        if name not in LOSSY:
            near = difflib.get_close_matches(name, LOSSY, 1)
            fix = f"did you mean {near[0]}?" if near else f"the names are {', '.join(LOSSY)}"
            raise UsageError("FP115", f"--allow {name}: nothing is called that", fix=fix)
    fields = frozenset(LOSSY[name] for name in asked)
    refuse_unsupported(Policy(**dict.fromkeys(fields, True)))  # type: ignore[arg-type]
    return fields


def lossy_fields(policy: Policy) -> frozenset[str]:
    """The lossy switches that a policy uses."""
    return frozenset(field for field in LOSSY.values() if getattr(policy, field))


def names_of(fields: Iterable[str]) -> list[str]:
    """The names behind these policy fields."""
    return [name for name, field in LOSSY.items() if field in set(fields)]
