"""A job that ran: how much of its rows and caches was in use, and how far it was from its bound."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flexplan.job import BenchReport, JobReport, Recording
from flexplan.report.sentences import named
from flexplan.units import format_duration

Ran = JobReport | BenchReport | Recording


def job_lines(report: Ran) -> list[str]:
    """What a run's rows and caches were in use, and how far it was from its bound, where that is known."""
    lines = []
    if report.usage is not None:
        usage = report.usage
        lines.append(
            f"in the mean {usage.seats_percent:.0f} % of {usage.seats:,} rows were live, and "
            f"{usage.cache_percent:.0f} % of their cache in use"
        )
    if report.bound_s is not None:
        percent = 100 * report.bound_s / took_s(report)
        limit = named(report.bound_limit)
        lines.append(f"{percent:.0f} % of the job bound, {format_duration(report.bound_s)}, set by {limit}")
    return lines


def took_s(report: Ran) -> float:
    """Seconds of a run beside its loading."""
    if isinstance(report, Recording):
        return report.prefill_s + report.decode_s
    return report.run_s if isinstance(report, JobReport) else report.measured.end_s


def job_object(report: BenchReport | Recording) -> dict[str, Any]:
    """The same as plain data."""
    bound_s = report.bound_s
    return {
        "usage": report.usage and asdict(report.usage),
        "bound_s": bound_s,
        "bound_limit": report.bound_limit,
        "of_bound_percent": None if bound_s is None else 100 * bound_s / took_s(report),
    }


def job_numbers(recording: Recording) -> dict[str, float | None]:
    """The same numbers by what they are, for a page."""
    usage, found = recording.usage, job_object(recording)
    return {
        "tokens per second": recording.num_tokens / max(1e-9, took_s(recording)),
        "rows live, percent": usage and usage.seats_percent,
        "cache in use, percent": usage and usage.cache_percent,
        "job bound, seconds": recording.bound_s,
        "of the job bound, percent": found["of_bound_percent"],
    }
