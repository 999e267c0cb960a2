"""A plan's file: every field checked by type and range, and held against what its policy implies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isclose
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flexplan.errors import PolicyError
from flexplan.limits import MOST_PLAN_BYTES, Bytes, PlainText, first_refused, shown
from flexplan.policy import check_version, read_strict_json
from flexplan.problem import Problem

Phase = Literal["prefill", "decode"]
Tier = Literal["gpu", "cpu", "disk"]
What = Literal["w", "cache", "act"]
Share = Annotated[float, Field(ge=0, le=100.001, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Shares = dict[What, tuple[Share, Share, Share]]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]

_CLOSE = 1e-6  # relative: sums of floats may be taken in another order on another machine
_FIX = "solve again"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class WrittenPlacement(_Part):
    """Percents on (gpu, cpu, disk): as the policy asks, and as whole rows and grains give."""

    asked: Annotated[Shares, Field(strict=False)]
    realised: Annotated[Shares, Field(strict=False)]


class WrittenPrediction(_Part):
    """The numbers of a prediction; ``of`` is the digest of what they hold for, ``sum`` of placement and numbers."""

    tokens_per_s: Seconds
    prefill_s: Seconds
    decode_s: Seconds
    peak_bytes: dict[Tier, Bytes]
    busiest_lane: dict[Phase, PlainText]
    lane_busy_s: dict[Phase, dict[PlainText, Seconds]]
    block_s: Seconds
    of: Digest | None = None
    sum: Digest | None = None


class PlanFile(_Part):
    """What stands in a plan's file; the policy is read apart, with errors of its own."""

    version: Any
    planner: PlainText = "manual"
    schedule: PlainText
    policy: dict[str, Any]
    placement: WrittenPlacement
    prediction: WrittenPrediction
    problem: dict[str, Any]

    @classmethod
    def read(cls, text: str) -> PlanFile:
        """The file's fields; PolicyError names what is missing or wrong."""
        given = read_strict_json(text, "plan", MOST_PLAN_BYTES)
        check_version(given.get("version"), "plan")
        missing = {"policy", "problem", "schedule", "prediction", "placement"} - given.keys()
        if missing:
            raise PolicyError("FP208", f"the plan lacks {', '.join(sorted(missing))}", fix=_FIX)
        try:
            return cls.model_validate_json(json.dumps(given))
        except ValidationError as error:
            raise _refusal(error) from None

    def read_problem(self) -> Problem:
        """The problem; PolicyError names the field."""
        try:
            return Problem.model_validate_json(json.dumps(self.problem))
        except ValidationError as error:
            raise _refusal(error, "problem") from None

    @property
    def numbers(self) -> dict[str, Any]:
        """What follows from policy and problem, as it is written."""
        prediction = self.prediction.model_dump(mode="json", exclude={"of", "sum"})
        return {"placement": self.placement.model_dump(mode="json"), "prediction": prediction}


def first_difference(written: Any, implied: Any, where: str = "") -> str | None:
    """Where written numbers are not those that are implied, and how; None where they agree."""
    if isinstance(implied, Mapping) and isinstance(written, Mapping):
        pairs = {str(key): (written.get(key), implied.get(key)) for key in (*implied, *written)}
    elif isinstance(implied, list | tuple) and isinstance(written, list | tuple) and len(implied) == len(written):
        pairs = {str(n): pair for n, pair in enumerate(zip(written, implied, strict=True))}
    else:
        numbers = isinstance(written, int | float) and isinstance(implied, int | float)
        same = isclose(written, implied, rel_tol=_CLOSE, abs_tol=1e-9) if numbers else written == implied
        return None if same else f"{where} is {shown(written)}, its policy gives {shown(implied)}"
    found = (first_difference(*pair, where=f"{where}.{key}".lstrip(".")) for key, pair in pairs.items())
    return next((difference for difference in found if difference), None)


def _refusal(error: ValidationError, where: str = "") -> PolicyError:
    first = first_refused(error)
    place = ".".join(filter(None, (where, first.where)))
    return PolicyError("FP208", f"the plan does not read: {place}: {first.says}", fix=_FIX)
