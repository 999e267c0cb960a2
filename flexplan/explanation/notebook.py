"""An explanation as a notebook shows it: the plan, its bound, what more would bring, the baselines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexplan.drawing import Html, element, html_table
from flexplan.plan import plan_html
from flexplan.units import format_duration

if TYPE_CHECKING:
    from flexplan.explanation.explanation import Explanation


def explanation_html(found: Explanation) -> Html:
    """The numbers of `Explanation.to_dict`, for people."""
    bound = found.bound
    limits = f"{bound.prefill_limit} limits prefill" + (
        f", {bound.decode_limit} decoding" if bound.decode_limit else ""
    )
    says = f"{limits}; a block runs at {found.of_bound_percent:.0f} % of its bound, {format_duration(bound.total_s)}"
    full = f"; used up: {', '.join(found.binding)}" if found.binding else ""
    gains = [[gain.more, f"{gain.percent:+z.1f} %"] for gain in found.gains]
    baselines = [
        [other.name, f"{other.plan.prediction.tokens_per_s:.2f}" if other.plan else "-", other.why_not]
        for other in found.baselines
    ]
    return element(
        "div",
        plan_html(found.plan),
        element("div", says, full),
        html_table(("what more would bring", "tokens per second"), gains),
        html_table(("baseline", "tokens per second", "why not"), baselines),
    )
