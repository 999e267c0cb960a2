"""The page: template, sections, data and chart library in one file."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from flexplan.drawing import LANE_COLOURS, Html, element, joined
from flexplan.explanation import Explanation, OnePass, Surroundings, passes_to_show, predicted_spans, surroundings, view
from flexplan.report.html import sections
from flexplan.report.html.charts import memory_chart, pass_chart

Pass = tuple[Surroundings, dict[str, OnePass]]


def html_report(found: Explanation) -> str:
    """A report of a plan: one self-contained page; its numbers are those of ``found.to_dict()``, which it carries."""
    plan = found.plan
    passes = [_pass(found, i) for i in passes_to_show(plan.problem.workload.gen_len)]
    data = {
        "colours": LANE_COLOURS,
        "passes": [pass_chart(*one) for one in passes],
        "memory": memory_chart(plan),
    }
    parts = {
        "title": element("title", f"{plan.problem.model.name} on {plan.problem.hardware.name}: flexplan report"),
        "style": element("style", Html(_asset("report.css"))),
        "body": joined(sections.all_sections(found, passes)),
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
    return page


def _pass(found: Explanation, i: int) -> Pass:
    around = surroundings(found.plan, i)
    predicted = view(around, predicted_spans(found.plan, around))
    assert predicted is not None
    return around, {"predicted": predicted}


def _json(name: str, data: Any) -> Html:
    """Data that a script reads, and nothing within can end."""
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return element("script", Html(text), type="application/json", id=name)


def _asset(name: str) -> str:
    return (files("flexplan.report.html") / name).read_text(encoding="utf-8")
