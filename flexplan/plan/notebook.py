"""A plan as a notebook shows it: what was asked, where things live, memory, speed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexplan.drawing import TIER_COLOURS, Html, element, html_table
from flexplan.graph import TIERS
from flexplan.units import format_duration, format_size

if TYPE_CHECKING:
    from flexplan.plan.plan import Plan

_WORDS = {"w": "weights", "cache": "KV cache", "act": "activations"}


def plan_html(plan: Plan) -> Html:
    """The numbers of `Plan.to_dict`, for people."""
    p, policy = plan.prediction, plan.policy
    rate = f"{p.tokens_per_s:.4g} tokens per second predicted"
    times = f"prefill {format_duration(p.prefill_s)}, decode {format_duration(p.decode_s)}"
    block = f"{policy.gpu_batch_size} sequences x {policy.num_gpu_batches} micro-batches a block"
    return element(
        "div",
        element("b", f"{plan.problem.model.name} on {plan.problem.hardware.name}: {rate}"),
        element("div", f"{times}; {block}; planner {plan.planner}, schedule {plan.schedule}"),
        _shares(plan),
        _memory(plan),
    )


def _shares(plan: Plan) -> Html:
    rows = [
        [_WORDS.get(what, what), *(f"{share:.1f} %" for share in shares), _stripe(shares)]
        for what, shares in plan.realised.items()
    ]
    return html_table(("", *TIERS, ""), rows)


def _stripe(shares: tuple[float, ...]) -> Html:
    """The shares side by side in the colours of their tiers."""
    parts = [
        element("span", style=f"display:inline-block;height:10px;width:{share:.1f}%;background:{TIER_COLOURS[tier]}")
        for tier, share in zip(TIERS, shares, strict=True)
    ]
    return element("div", *parts, style="width:160px;white-space:nowrap;font-size:0")


def _memory(plan: Plan) -> Html:
    rows = []
    for tier in TIERS:
        need, have = plan.prediction.peak_bytes[tier], plan.problem.budgets()[tier]
        percent = 100 * need / have if have else 0.0
        rows.append([tier, format_size(need), format_size(have), f"{percent:.0f} %"])
    return html_table(("tier", "planned", "budget", "used"), rows)
