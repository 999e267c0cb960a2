"""The page: template, sections, data and chart library in one file."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from flexplan.drawing import LANE_COLOURS, Html, element, joined
from flexplan.explanation import Explanation
from flexplan.files import write_whole
from flexplan.job import Recording
from flexplan.report.html.again import tables
from flexplan.report.html.charts import memory_chart, pass_chart, standing_chart
from flexplan.report.html.sections import all_sections
from flexplan.report.html.shown import Shown


class Page(str):
    """A page's text; in a notebook it shows itself in a frame of its own."""

    __slots__ = ()

    def save(self, path: str | Path) -> None:
        """Write the file."""
        write_whole(path, self)

    def _repr_html_(self) -> str:
        return element("iframe", srcdoc=self, width="100%", height="900", style="border:0")


def html_report(found: Explanation, recording: Recording | None = None) -> Page:
    """A report of a plan, and of a run of it: one self-contained page.

    Its numbers are those of ``found.to_dict()``, which it carries.  What was measured stands beside what is predicted
    for the very prompts that ran.
    """
    shown = Shown.of(found, recording)
    data = {
        "colours": LANE_COLOURS,
        "passes": [pass_chart(*one) for one in shown.passes],
        "memory": memory_chart(shown.plan, recording),
        "standing": standing_chart(recording),
        "files": tables(found.plan, recording),
    }
    hardware = found.plan.problem.hardware
    parts = {
        "title": element("title", f"{found.plan.problem.model.name} on {hardware.name}: flexplan report"),
        "style": element("style", Html(_asset("report.css"))),
        "body": joined(all_sections(shown)),
        "explanation": _json("explanation", found.to_dict()),
        "charts": _json("charts", data),
        "library": element("script", Html(_asset("echarts.min.js"))),
        "script": element("script", Html(_asset("report.js"))),
    }
    page = _asset("template.html")
    for name, part in parts.items():
        before, mark, after = page.partition(f"<!-- {name} -->")
        assert mark, name
        page = before + part + after
    return Page(page)


def _json(name: str, data: Any) -> Html:
    """Data that a script reads, and nothing within can end."""
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return element("script", Html(text), type="application/json", id=name)


def _asset(name: str) -> str:
    return (files("flexplan.report.html") / name).read_text(encoding="utf-8")
