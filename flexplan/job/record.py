"""A recording's file, as ``--record`` writes it and a report reads it: every field checked."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flexplan.errors import UsageError
from flexplan.files import json_line, parse_json
from flexplan.graph import Span
from flexplan.job.runtime import Recording
from flexplan.job.standing import Usage
from flexplan.limits import Bytes, PlainText, first_refused, read_limited, shown
from flexplan.plan import Plan

VERSION = 1
_MOST_BYTES = 256 << 20  # the tasks of a few passes of the largest blocks
_FIX = "record it again: flexplan run (or bench) POLICY --record FILE"
_MAY_DIFFER = ("gpu_batch_size", "num_gpu_batches")  # where memory gave out

Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Moment = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]  # loading lies before 0


Count = Annotated[int, Field(ge=0, le=1 << 60)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class _Usage(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    seats: Count
    seats_percent: Percent
    cache_percent: Percent


class _RecordFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1]
    plan: dict[str, Any]
    device: PlainText
    dtype: PlainText
    num_blocks: Annotated[int, Field(ge=1, le=1 << 40)]
    num_tokens: Annotated[int, Field(ge=0, le=1 << 60)]
    prefill_s: Seconds
    decode_s: Seconds
    lane_busy_s: dict[PlainText, Seconds]
    spans: list[tuple[PlainText, PlainText, int, Seconds, Seconds]]
    memory: list[tuple[Moment, Bytes, Bytes, Bytes]]
    standing: list[tuple[Seconds, Count, Count, Count]] = []
    seats: Count = 0
    reserved: Count = 0
    usage: _Usage | None = None
    bound_s: Seconds | None = None
    bound_limit: Annotated[str, Field(max_length=40)] = ""


def record_text(recording: Recording) -> str:
    """The file of a recording."""
    found = asdict(recording) | {"version": VERSION, "plan": recording.plan.to_dict()}
    return json_line(found) + "\n"


def read_recording(path: str | Path) -> Recording:
    """What ``record_text`` wrote; UsageError where it cannot be read or is none."""
    try:
        given = _RecordFile.model_validate_json(_checked(read_limited(path, _MOST_BYTES)))
    except ValidationError as error:
        first = first_refused(error)
        raise UsageError("FP182", f"recording {path}: {first.where or 'the file'}: {first.says}", fix=_FIX) from None
    except (OSError, ValueError) as error:
        raise UsageError("FP187", f"recording {path} cannot be read: {error}", fix=_FIX) from None
    return Recording(
        plan=Plan.from_json(json.dumps(given.plan)),
        device=given.device,
        dtype=given.dtype,
        num_blocks=given.num_blocks,
        num_tokens=given.num_tokens,
        prefill_s=given.prefill_s,
        decode_s=given.decode_s,
        lane_busy_s=given.lane_busy_s,
        spans=tuple(Span(*span) for span in given.spans),
        memory=tuple(given.memory),
        standing=tuple(given.standing),
        seats=given.seats,
        reserved=given.reserved,
        usage=Usage(**given.usage.model_dump()) if given.usage else None,
        bound_s=given.bound_s,
        bound_limit=given.bound_limit,
    )


def _checked(text: str) -> str:
    """The text, if it is JSON without traps; a ValueError says what is wrong."""
    parse_json(text)
    return text


def refuse_other_plan(plan: Plan, recording: Recording) -> None:
    """Raise UsageError where another model, policy or schedule ran; prompts, machine and dtype may differ."""
    for what, mine, ran in _compared(plan, recording.plan):
        if mine != ran:
            message = f"the recording is of another plan: its {what} is {shown(ran)}, the plan's {shown(mine)}"
            raise UsageError("FP183", message, fix="give the plan that ran, or record a run of this one")


def _compared(plan: Plan, ran: Plan) -> list[tuple[str, Any, Any]]:
    mine, theirs = (one.problem.model.with_dtype(2).model_dump(exclude={"name"}) for one in (plan, ran))
    pairs = [(f"model's {key}", mine[key], theirs[key]) for key in mine]
    for key, mine_is in plan.policy.to_dict().items():
        if key not in _MAY_DIFFER:
            pairs.append((f"policy's {key}", mine_is, ran.policy.to_dict().get(key)))
    return [*pairs, ("schedule", plan.schedule, ran.schedule)]
