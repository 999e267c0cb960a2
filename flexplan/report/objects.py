"""Objects: what ran as plain data, for ``--json`` and output lines."""

from __future__ import annotations

from typing import Any

from flexplan.errors import FlexplanError
from flexplan.files import json_line
from flexplan.graph import Timeline
from flexplan.job import BenchReport, Choice, Completion, DemoReport, JobReport, TokenLogprob
from flexplan.problem.prompts import BadLine, Chat
from flexplan.report.job import job_lines, job_object
from flexplan.report.tables import per_second
from flexplan.sandbox import schedule_of
from flexplan.schedule import rolls
from flexplan.units import format_duration, format_size


def completion_line(completion: Completion) -> str:
    """One line of the output."""
    return json_line(_completion(completion)) + "\n"


def failure_line(completion: Completion, error: FlexplanError) -> str:
    """The line of a request that could not be completed, and why."""
    return json_line(_completion(completion) | {"error": _why(error)}) + "\n"


def bad_line(bad: BadLine) -> str:
    """The same of a line that is no request."""
    found = {"id": bad.id, "line": bad.line, "finish_reason": "error", "error": _why(bad.error)}
    return json_line(found) + "\n"


def _why(error: FlexplanError) -> dict[str, str]:
    return {"code": error.code, "message": error.message, "fix": error.fix}


def _completion(completion: Completion) -> dict[str, Any]:
    """A single answer stands beside its prompt; several are a list."""
    content, choices = completion.prompt, completion.choices
    asked = {"messages": content.messages} if isinstance(content, Chat) else {"prompt": content}
    if len(choices) > 1:
        answers: dict[str, Any] = {"choices": [{"index": n, **_choice(one)} for n, one in enumerate(choices)]}
    else:
        answers = _choice(choices[0] if choices else Choice(None, (), "error"))
    return {"id": completion.id, **asked, **answers, "num_prompt_tokens": completion.num_prompt_tokens}


def _choice(choice: Choice) -> dict[str, Any]:
    found: dict[str, Any] = {
        "text": choice.text,
        "token_ids": choice.token_ids,
        "finish_reason": choice.finish_reason,
    }
    if choice.logprobs is not None:
        found["logprobs"] = [_logprob(one) | {"top_logprobs": list(map(_logprob, one.top))} for one in choice.logprobs]
    return found


def _logprob(one: TokenLogprob) -> dict[str, Any]:
    return {"token_id": one.id, "token": one.text, "logprob": one.logprob}


def summary(report: JobReport) -> str:
    """What a job was, in two lines."""
    rate = per_second(report.num_tokens, report.run_s)
    peaks = ", ".join(f"{tier} {format_size(nbytes)}" for tier, nbytes in report.peak_bytes.items())
    return (
        f"{report.num_prompts:,} prompts, {report.num_tokens:,} new tokens in {format_duration(report.run_s)} "
        f"({rate:.2f} tokens/s), weights loaded in {format_duration(report.load_s)}\nmemory at its highest: {peaks}"
        + "".join(f"\n{line}" for line in job_lines(report))
    )


def bench_object(report: BenchReport) -> dict[str, Any]:
    """A bench as plain data."""
    rows = report.plan.problem.workload.new_tokens(len(report.run.completions))
    rolling = rolls(schedule_of(report.plan.schedule))
    return {
        "predicted": _timeline_object(report.predicted, rows, rolling),
        "measured": _timeline_object(report.measured, rows, rolling),
        "job": job_object(report),
        "gap_percent": 100 * (report.measured.end_s / report.predicted.end_s - 1),
        "planned_peak_bytes": report.plan.prediction.peak_bytes,
        "held_peak_bytes": dict(report.run.peak_bytes),
        "device_peak_bytes": report.device_peak_bytes,
        "moved_bytes": {name: {"planned": plan, "counted": real} for name, (plan, real) in report.moved.items()},
        "placement": {
            "asked": {what: [100 * s for s in report.plan.policy.shares(what)] for what in report.run.realised},
            "realised": {what: list(shares) for what, shares in report.run.realised.items()},
        },
        "policy": report.plan.policy.to_dict(),
        "hardware": report.plan.problem.hardware.name,
        "dtype": report.run.dtype,
    }


def _timeline_object(timeline: Timeline, num_tokens: int, rolling: bool) -> dict[str, Any]:
    """Passes of a rolling job are prefill and decoding at once: all of it counts as decoding, as in its prediction."""
    return {
        "prefill_s": 0.0 if rolling else timeline.prefill_s,
        "decode_s": timeline.end_s if rolling else timeline.decode_s,
        "total_s": timeline.end_s,
        "tokens_per_s": per_second(num_tokens, timeline.end_s),
        "lane_busy_s": dict(timeline.lane_busy_s),
    }


def demo_object(report: DemoReport) -> dict[str, Any]:
    """A demo as plain data."""
    completions = next(iter(report.runs.values())).run.completions
    return {
        "tokens_equal": report.tokens_equal,
        "model_bytes": report.model_bytes,
        "completions": [{"prompt": c.prompt, "text": c.text} for c in completions],
        "runs": {name: bench_object(run) for name, run in report.runs.items()},
        "timed": {"model": report.timed.plan.problem.model.name, **bench_object(report.timed)},
    }
