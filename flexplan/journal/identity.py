"""What a job is: digests of its requests, and its settings by name, so that what differs can be said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from flexplan.errors import UsageError

_FIX = "give what the job was begun with, or --overwrite to begin anew, or another output"


def request_digest(parts: Sequence[Any]) -> str:
    """16 hexadecimal digits of what a request asks for, as plain data.

    >>> request_digest(["a", "Hello", None])
    'c6ff5d1c1b3c8ba5'
    """
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def refuse_other_settings(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise UsageError that names each setting which is not what it was."""
    differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if differing:
        each = "; ".join(f"{name}: was {before.get(name, 'none')}, is {now.get(name, 'none')}" for name in differing)
        raise UsageError("FP176", f"this is not the job that was begun: {each}", fix=_FIX)


def refuse_other_requests(finished: Mapping[int, str], digests: Sequence[str] | Mapping[int, str]) -> None:
    """Raise UsageError where a finished request, by its place in the input, is gone or asks for something else."""
    gone = [number for number in finished if number >= len(digests)]
    if gone:
        message = f"prompts: there are {len(digests):,}, the one at place {max(gone):,} is finished already"
        raise UsageError("FP177", message, fix="give the prompts of before; new ones go behind them")
    changed = sorted(number for number, digest in finished.items() if digests[number] != digest)
    if changed:
        which = ", ".join(f"{number:,}" for number in changed[:10]) + (", ..." if len(changed) > 10 else "")
        message = f"prompts: {len(changed):,} that are finished are not what they were, by place from 0 on: {which}"
        raise UsageError("FP178", message, fix="give the prompts of before, in their order; new ones go behind them")
