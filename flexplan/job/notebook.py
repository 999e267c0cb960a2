"""A bench as a notebook shows it: times and lanes, predicted beside measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexplan.drawing import Html, element, html_table
from flexplan.units import format_duration

if TYPE_CHECKING:
    from flexplan.job.runtime import BenchReport


def bench_html(report: BenchReport) -> Html:
    """Seconds by phase and by lane, and both timelines as pictures."""
    p, m = report.predicted, report.measured
    phases = [_row(name, getattr(p, f"{name}_s"), getattr(m, f"{name}_s")) for name in ("prefill", "decode", "end")]
    lanes = [
        _row(lane, p.lane_busy_s.get(lane, 0.0), m.lane_busy_s.get(lane, 0.0))
        for lane in {**p.lane_busy_s, **m.lane_busy_s}
    ]
    pictures = [
        element("div", name, timeline.plot(end_s=max(p.end_s, m.end_s)).svg)
        for name, timeline in (("predicted", p), ("measured", m))
        if timeline.spans
    ]
    head = ("predicted", "measured", "gap")
    return element("div", html_table(("", *head), phases), html_table(("busy by lane", *head), lanes), *pictures)


def _row(name: str, predicted_s: float, measured_s: float) -> list[str]:
    gap = f"{100 * (measured_s / predicted_s - 1):+z.0f} %" if predicted_s > 0 else "-"
    return [name, format_duration(predicted_s), format_duration(measured_s), gap]
