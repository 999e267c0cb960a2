"""What stands on the page without a script: sentences, tables, bars, and the map of layers and tiers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from flexplan.drawing import Html, bar, draw_tiers, element, html_table
from flexplan.explanation import (
    Explanation,
    OnePass,
    Phases,
    heaviest_placement,
    job_bound,
    job_prediction,
    layer_places,
)
from flexplan.graph import TIERS
from flexplan.job import Recording
from flexplan.plan import BaselineResult, Plan
from flexplan.report.html.again import HARDWARE, PLAN, commands, needs, tables
from flexplan.report.html.measured import busy_lanes, kinds, run_sentences, slowest
from flexplan.report.html.shown import Shown
from flexplan.report.job import job_numbers
from flexplan.report.sentences import (
    bottleneck_sentence,
    bound_sentence,
    critical_path_sentence,
    lossy_sentences,
    margin_lines,
    named,
    used_up,
    winner_sentence,
)
from flexplan.report.tables import (
    asked_lines,
    gap,
    hardware_rows,
    in_order,
    memory_rows,
    per_second,
    policy_lines,
    seconds,
    share_of,
)
from flexplan.sandbox import schedule_of
from flexplan.schedule import rolls

_BOUND, _PREDICTED, _MEASURED = "#94a3b8", "#3b82f6", "#f08c1a"


def all_sections(shown: Shown) -> Iterator[Html]:
    """From the sentence to the commands."""
    found = shown.found
    yield _head(shown)
    yield _section("Time", *_time(shown))
    if shown.recording and len(shown.recording.standing) > 1:
        yield _section("The job", *_job(shown.recording))
    yield _section("One pass over the layers", *_lanes(shown))
    yield _section("Memory", _chart("memory", "Memory of each tier over time"), _memory(found))
    yield _section("Where weights and cache live", *_map(found))
    yield _section("What more would bring", *_gains(found))
    yield _section("Baselines", _baselines(found), *_lines(winner_sentence(found), *lossy_sentences(found)))
    yield _section("The machine", _machine(found))
    yield _section("Once more", *_again(shown))


def _section(title: str, *inside: object) -> Html:
    return element("section", element("h2", title), *inside)


def _lines(*texts: str) -> list[Html]:
    return [element("p", line) for text in texts for line in text.splitlines()]


def _chart(name: str, says: str) -> Html:
    """A place that the script fills."""
    return element(
        "div", element("noscript", "Drawn by a script."), class_="chart", id=name, role="img", aria_label=says
    )


# -- the sentence ------------------------------------------------------------------------------------------------
def _head(shown: Shown) -> Html:
    found, plan, recording = shown.found, shown.found.plan, shown.recording
    first, *rest = (line.plain for line in asked_lines(plan))
    tiles = {
        "tokens per second, predicted": f"{plan.prediction.tokens_per_s:.4g}",
        "a block": seconds(plan.prediction.block_s),
        "of the bound": f"{found.of_bound_percent:.0f} %",
        "sequences a block": f"{plan.policy.block_size:,}",
    }
    if recording:
        rate = per_second(recording.num_tokens, recording.prefill_s + recording.decode_s)
        tiles["tokens per second, measured"] = f"{rate:.4g}"
    return element(
        "header",
        element("h1", first),
        *(element("p", line, class_="quiet") for line in rest),
        element("p", bottleneck_sentence(found), " ", used_up(plan), class_="bottleneck", id="bottleneck"),
        *(element("p", line) for line in (run_sentences(shown, recording) if recording else ())),
        element("div", *(_tile(name, value) for name, value in tiles.items()), class_="tiles"),
        *(element("p", line, class_="quiet") for line in policy_lines(plan)),
    )


def _tile(name: str, value: str) -> Html:
    return element("div", element("b", value), element("span", name))


# -- time --------------------------------------------------------------------------------------------------------
def _time(shown: Shown) -> Iterator[Html]:
    yield _phases(shown)
    yield element("p", *_lines(bound_sentence(shown.found)))
    if shown.found.parts:
        yield _parts(shown.found)
    if shown.recording:
        yield busy_lanes(shown.recording)


def _parts(found: Explanation) -> Html:
    most = max(1e-9, *(part.percent for part in found.parts))
    rows = [
        [
            element("span", part.name, element("small", part.says)),
            f"{part.percent:+z.1f} %",
            bar(100 * part.percent / most),
        ]
        for part in found.parts
    ]
    return html_table(("what the rolling schedule brings for this list", "tokens per second", ""), rows, "bars")


def _phases(shown: Shown) -> Html:
    bound = job_bound(shown.plan) if shown.recording else shown.found.of_job
    whose = [("bound", _BOUND, bound), ("predicted", _PREDICTED, job_prediction(shown.plan))]
    if shown.recording:
        took = Phases(shown.recording.prefill_s, shown.recording.decode_s)
        whose.append(("measured", _MEASURED, took))
    longest = max(phases.total_s for _, _, phases in whose)
    rows = []
    for phase in ("total",) if rolls(schedule_of(shown.plan.schedule)) else ("prefill", "decode", "total"):
        promised: float = getattr(whose[1][2], f"{phase}_s")
        for name, colour, phases in whose:
            took_s: float = getattr(phases, f"{phase}_s")
            beside = gap(promised, took_s) if name == "measured" else ""
            words = phase if name == "bound" else ""
            rows.append([words, name, seconds(took_s), beside, bar(100 * took_s / longest, colour)])
    return html_table(("all blocks", "", "time", "gap" if shown.recording else "", ""), rows, "bars")


def _job(recording: Recording) -> Iterator[Html]:
    yield _chart("rows", "Rows live, cache in use and tokens per second over the job")
    yield element("p", f"Of {recording.seats:,} rows at a time, and of {recording.reserved:,} tokens in their caches.")
    rows = [(name, "-" if value is None else f"{value:,.4g}") for name, value in job_numbers(recording).items()]
    yield element("details", element("summary", "In numbers"), html_table(("", ""), rows))


# -- one pass ----------------------------------------------------------------------------------------------------
def _lanes(shown: Shown) -> Iterator[Html]:
    if shown.found.critical_path:
        yield element("p", critical_path_sentence(shown.found.critical_path))
    for n, (around, views) in enumerate(shown.passes):
        what = _pass_name(shown.plan, around.sweep.i)
        took = ", ".join(f"{name} {seconds(view.took_s)}" for name, view in views.items())
        yield element("h3", f"{what}: {took}")
        yield _chart(f"pass-{n}", f"{what}: what runs when on each lane")
        yield element("details", element("summary", "Idle time by what is waited for"), *map(_idle, views.items()))
        if "measured" in views:
            both = around, views["predicted"], views["measured"]
            yield element(
                "details", element("summary", "By kind of task, and the slowest"), kinds(*both), slowest(*both[1:])
            )


def _pass_name(plan: Plan, i: int) -> str:
    if rolls(schedule_of(plan.schedule)):
        return f"Pass {i} of the rolling job"
    return f"Decoding, token {i}" if i else "Prefill"


def _idle(named_view: tuple[str, OnePass]) -> Html:
    name, view = named_view
    rows = []
    idle = view.idle_s()
    for lane in in_order({span.lane for span in view.spans}):
        causes = sorted(idle.get(lane, {}).items(), key=lambda item: -item[1])
        total = sum(took for _, took in causes)
        worth = [(cause, took) for cause, took in causes if took >= 0.005 * view.took_s]
        says = ", ".join(
            f"{named(cause) if cause else 'no task'} {share_of(took, view.took_s)}" for cause, took in worth
        )
        rows.append([lane, share_of(total, view.took_s), says])
    return html_table((f"lane, {name}", "idle", "while it waits for"), rows)


# -- memory, places ----------------------------------------------------------------------------------------------
def _memory(found: Explanation) -> Html:
    return html_table(("tier", "planned", "budget", "used"), memory_rows(found.plan))


def _map(found: Explanation) -> Iterator[Html]:
    places = layer_places(heaviest_placement(found.plan))
    parts = [("weights", [(place.name, place.weights) for place in places])]
    parts.append(("KV cache", [(place.name, place.cache) for place in places]))
    yield element("div", draw_tiers(parts, "Layers and tiers").svg, class_="scroll wide")
    yield element(
        "p",
        "A column a layer, in the order of a pass, numbered as layers are; the darker, the more of it is on that tier.",
        class_="quiet",
    )
    rows = []
    for part, columns in parts:
        for nbytes, alike in groupby(columns, key=lambda column: column[1]):
            names = [name for name, _ in alike]
            shares = (share_of(n, sum(nbytes)) for n in nbytes)
            rows.append([part, names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}", *shares])
    table = html_table(("", "layers", *TIERS), [row for row in rows if row[2] != "-"])
    yield element("details", element("summary", "In numbers"), table)


# -- more and baselines ------------------------------------------------------------------------------------------
def _gains(found: Explanation) -> Iterator[Html]:
    most = max((gain.percent for gain in found.gains), default=0.0)
    rows = [
        [gain.more, f"{gain.percent:+z.1f} %", bar(100 * gain.percent / most if most > 0 else 0)]
        for gain in found.gains
    ]
    solved = any(gain.solved for gain in found.gains)
    yield html_table(("", "tokens per second", ""), rows, "bars")
    how = "Solved again with each." if solved else "For the policy as it is."
    yield element("p", " ".join([how, *(line.plain.strip() for line in margin_lines(found))]), class_="quiet")


def _baselines(found: Explanation) -> Html:
    mine = found.plan.prediction.tokens_per_s
    rates = [r.plan.prediction.tokens_per_s for r in found.baselines if r.plan]
    most = max([mine, *rates])
    rows: list[list[object]] = [[element("b", "this plan"), f"{mine:.2f}", bar(100 * mine / most), ""]]
    for baseline in found.baselines:
        rate = baseline.plan.prediction.tokens_per_s if baseline.plan else None
        shown = "-" if rate is None else f"{rate:.2f}"
        name = element("span", baseline.name, element("small", baseline.says))
        rows.append([name, shown, bar(100 * (rate or 0) / most, _BOUND), _why(baseline, mine)])
    return html_table(("", "tokens/s", "", "why not"), rows, "bars")


def _why(baseline: BaselineResult, mine: float) -> str:
    """Why a baseline lost: it does not fit, or what it waits for."""
    if baseline.plan is None:
        return baseline.why_not
    p = baseline.plan.prediction
    phase, words = ("decode", "decoding") if p.decode_s > p.prefill_s else ("prefill", "prefill")
    busiest = p.busiest_lane.get(phase)
    busy = p.lane_busy_s.get(phase, {}).get(busiest or "", 0.0)
    says = f"; {named(busiest)} is busy {share_of(busy, getattr(p, f'{phase}_s'))} of {words}" if busiest else ""
    return f"{100 * (p.tokens_per_s / mine - 1):+z.0f} %{says}, {baseline.plan.policy.block_size:,} sequences a block"


# -- the machine, once more --------------------------------------------------------------------------------------
def _machine(found: Explanation) -> Html:
    rows = [row for row in hardware_rows(found.plan.problem.hardware) if row[1] not in ("", "None")]
    return html_table(("what", "value", "spread"), rows)


def _again(shown: Shown) -> Iterator[Html]:
    plan = shown.found.plan
    files = [
        PLAN,
        *([] if plan.problem.hardware.preset else [HARDWARE]),
        *tables(plan, shown.recording),
        "explain.json",
    ]
    yield element("pre", "\n".join(commands(plan, shown.recording)), id="commands")
    beside = needs(plan)
    if beside:
        yield element("p", f"Needs {' and '.join(beside)}.")
    yield element("p", *(element("button", f"Save {name}", type="button", data_file=name) for name in files))
