"""Sentences: what an explanation says to people on a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.text import Text

from flexplan.explanation import CriticalPath, Explanation, binding_tiers
from flexplan.plan import BaselineResult, Plan
from flexplan.policy import lossy_fields, names_of
from flexplan.report.tables import (
    asked_lines,
    in_order,
    memory_table,
    policy_table,
    seconds,
    share_of,
    shares_table,
    table,
    words_table,
)
from flexplan.simulation import Bound

_TIERS = {"gpu": "GPU memory", "cpu": "host memory", "disk": "disk space"}
_WORTH_A_WORD = 0.005  # percent
_RESOURCES = {
    "gpu": "the GPU",
    "cpu": "the host's attention",
    "host": "host memory bandwidth",
    "cores": "the cores, which compute and copy",
    "link": "the link, both ways together",
    "link_up": "the link to the GPU",
    "link_down": "the link from the GPU",
    "disk_read": "reading from disk",
    "disk_write": "writing to disk",
    "inline": "one task after the other",
}
_MOVES = {
    **dict.fromkeys(("h2d_weights", "h2d_cache", "h2d_small"), "link to the GPU"),
    "d2h": "link from the GPU",
    "host_copy": "copies in host memory",
}


def explanation_view(found: Explanation) -> RenderableType:
    """Where the time goes, what is full, what more would bring, and the baselines."""
    plan = found.plan
    return Group(
        *asked_lines(plan),
        policy_table(plan),
        busy_table(plan),
        Text(f"\n{bound_sentence(found)}\n{used_up(plan)}"),
        *parts_tables(found),
        *critical_path_lines(found.critical_path),
        gains_table(found),
        *margin_lines(found),
        memory_table(plan),
        shares_table(plan.policy, plan.realised),
        baselines_table(found),
        Text("\n" + "\n".join([winner_sentence(found), *lossy_sentences(found)])),
    )


def in_short(plan: Plan) -> RenderableType:
    """What limits a plan, in the two lines that need no more than the plan itself."""
    return Text(f"\n{used_up(plan)}\nMore, what more of each resource would bring, and baselines: flexplan explain")


def busy_table(plan: Plan) -> RenderableType:
    """Seconds by lane over the whole workload."""
    p = plan.prediction
    phases = {"prefill": p.prefill_s, "decode": p.decode_s}
    lanes = in_order({lane for phase in phases for lane in p.lane_busy_s.get(phase, {})})
    rows = [
        [lane, *(cell for phase, took in phases.items() for cell in _busy(plan, phase, lane, took))] for lane in lanes
    ]
    if not p.lane_busy_s.get("prefill"):  # a job whose passes are both at once
        short = [[lane, *_busy(plan, "decode", lane, p.decode_s)] for lane in lanes]
        return table(f"Time by lane: the job {seconds(p.decode_s)}", ("lane", "busy", "of it"), short)
    title = f"Time by lane: prefill {seconds(p.prefill_s)}, decode {seconds(p.decode_s)}"
    return table(title, ("lane", "prefill", "of it", "decode", "of it"), rows)


def _busy(plan: Plan, phase: str, lane: str, took: float) -> list[str]:
    busy = plan.prediction.lane_busy_s.get(phase, {}).get(lane, 0.0)
    return [seconds(busy), share_of(busy, took)]


def bottleneck_sentence(found: Explanation) -> str:
    """What limits the plan, in one sentence: the limit of the phase that takes longest."""
    p, bound = found.plan.prediction, found.bound
    phase, limit, took_s = max(
        ("prefill", bound.prefill_limit, p.prefill_s), ("decoding", bound.decode_limit, p.decode_s), key=lambda x: x[2]
    )
    if not bound.prefill_limit:
        return f"The job is limited by {named(limit)}; the plan runs at {found.of_bound_percent:.0f} % of its bound."
    what = f"{phase.capitalize()}, {share_of(took_s, p.total_s)} of the time, is limited by {named(limit)}"
    return f"{what}; the plan runs at {found.of_bound_percent:.0f} % of its bound."


def bound_sentence(found: Explanation) -> str:
    """The busiest lane of each phase, and the distance from the bound."""
    busiest, bound = found.plan.prediction.busiest_lane, found.bound
    if not bound.prefill_limit:  # a job whose passes are prefill and decoding at once
        return (
            f"The busiest lane of the job is {busiest.get('decode') or '-'}.\n"
            f"The job bound is {seconds(bound.total_s)}, set by {named(bound.decode_limit)}: all passes together "
            "need so much of it at full rate, the least that this policy can take.\n"
            f"It takes {seconds(found.plan.prediction.block_s)}, so it runs at {found.of_bound_percent:.0f} % of its "
            "bound."
        )
    block_s = seconds(found.plan.prediction.block_s)
    return (
        f"{_busiest_lanes(busiest)}\n{_busiest_of_all(bound)}, the least that this policy can take.\n"
        f"It takes {block_s}, so it runs at {found.of_bound_percent:.0f} % of its bound."
    )


def _busiest_lanes(busiest: Mapping[str, str]) -> str:
    """One for both phases is said once."""
    prefill, decoding = (busiest.get(phase) or "-" for phase in ("prefill", "decode"))
    if prefill == decoding:
        return f"The busiest lane is {prefill}, in prefill and in decoding."
    return f"The busiest lane is {prefill} in prefill, {decoding} in decoding."


def _busiest_of_all(bound: Bound) -> str:
    prefill, decoding, least = named(bound.prefill_limit), named(bound.decode_limit), seconds(bound.total_s)
    if not bound.decode_limit or prefill == decoding:
        phases = "in prefill and in decoding" if bound.decode_limit else "in prefill"
        return f"Of all lanes and resources one is the busiest {phases}: {prefill}. At full rate a block needs {least}"
    limits = " and ".join(
        f"{words}{',' if ',' in words else ''} in {phase}"
        for words, phase in ((prefill, "prefill"), (decoding, "decoding"))
    )
    return f"Busiest of all lanes and resources are {limits}: at full rate they need {least} a block"


def named(resource: str) -> str:
    """A lane or resource in words."""
    return _RESOURCES.get(resource, f"lane {resource}")


def parts_tables(found: Explanation) -> list[RenderableType]:
    """What each part of a rolling schedule brings."""
    rows = [[part.name, f"{part.percent:+z.1f} %", part.says] for part in found.parts]
    title = "What the rolling schedule brings for this list, each part by simulating the job without it"
    return [words_table(("", "tokens per second", ""), rows, title)] if rows else []


def used_up(plan: Plan) -> str:
    """The budgets that bind."""
    full = [_TIERS[tier] for tier in binding_tiers(plan)]
    return f"Used up: {' and '.join(full)}." if full else "No budget is used up."


def critical_path_lines(path: CriticalPath | None) -> list[RenderableType]:
    """What a decoding pass waits for, and the slack of each lane."""
    if path is None:
        return []
    lanes = in_order(set(path.slack_s))
    rows = [[lane, *(f"{percent:.0f} %" for percent in path.percents(lane))] for lane in lanes]
    title = "How much longer a lane's tasks may take before the pass does, in parts of the pass"
    slack = table(title, ("lane", "on the path", "all together", "one alone"), rows)
    return [Text(f"\n{critical_path_sentence(path)}"), slack]


def critical_path_sentence(path: CriticalPath) -> str:
    """The critical path by what its tasks take, the most first."""
    percents: dict[str, float] = {}
    for lane in path.path_s:
        words = _MOVES.get(lane) or named(lane)
        percents[words] = percents.get(words, 0.0) + path.percents(lane)[0]
    worth = [(percent, words) for words, percent in percents.items() if round(percent)]
    parts = ", ".join(f"{percent:.0f} % {words}" for percent, words in sorted(worth, reverse=True))
    return f"A decoding pass's critical path: {parts}."


def gains_table(found: Explanation) -> RenderableType:
    """A sentence for everything that is worth buying, one for all the rest."""
    rows = [[gain.more, f"{gain.percent:+z.1f} %"] for gain in found.worthwhile]
    rest = [gain.resource for gain in found.gains if gain not in found.worthwhile]
    if rest:
        rows.append(["a quarter more of anything else", "less than 1 %"])
    how = "solved again" if any(gain.solved for gain in found.gains) else "for the policy as it is"
    return words_table(("", "tokens per second"), rows, f"What more would bring, {how}")


def margin_lines(found: Explanation) -> list[Text]:
    """What the duals say."""
    worth = [f"1 % more {name} {gain:+z.2f} %" for name, gain in found.margins.items() if gain >= _WORTH_A_WORD]
    return [Text(f"\nAt the margin, by the program's duals: {', '.join(worth)}.")] if worth else []


def baselines_table(found: Explanation) -> RenderableType:
    """Every baseline beside the plan."""
    rows = [["this plan", f"{found.plan.prediction.tokens_per_s:.2f}", ""]]
    rows += [[baseline.name, *_speed(baseline, found.plan)] for baseline in found.baselines]
    return words_table(("", "tokens per second", ""), rows, "Baselines")


def _speed(result: BaselineResult, plan: Plan) -> list[str]:
    if result.plan is None:
        return ["-", result.why_not]
    rate = result.plan.prediction.tokens_per_s
    return [f"{rate:.2f}", f"{100 * (rate / plan.prediction.tokens_per_s - 1):+z.0f} %"]


def winner_sentence(found: Explanation) -> str:
    """Who is fastest."""
    winner = found.winner
    if winner is None or winner.plan is None:
        if not found.lossy_and_faster:
            return "The plan is the fastest of them."
        changing = "change tokens no more than it does" if lossy_fields(found.plan.policy) else "do not change tokens"
        return f"The plan is the fastest of those that {changing}."
    if winner.plan.policy == found.plan.policy:
        return f"The plan is the baseline {winner.name}: nothing faster was found."
    return f"The baseline {winner.name} is predicted to be faster than the plan; flexplan solve takes it."


def lossy_sentences(found: Explanation) -> list[str]:
    """What would be faster, were tokens allowed to change."""
    return [
        f"{baseline.name} is predicted to be faster still, but changes tokens: "
        f"flexplan solve --allow {','.join(names_of(lossy_fields(baseline.plan.policy)))}"
        for baseline in found.lossy_and_faster
        if baseline.plan
    ]
