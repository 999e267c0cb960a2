"""Tables: plans and timelines, for people on a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from flexplan.cost import experts_touched
from flexplan.errors import visible
from flexplan.graph import LANES, TIERS
from flexplan.model import weight_tensors
from flexplan.model.layers import separates
from flexplan.report.answers import answers, colours
from flexplan.sandbox import schedule_of
from flexplan.schedule import rolls
from flexplan.units import format_duration, format_size

if TYPE_CHECKING:
    from flexplan.graph import Timeline
    from flexplan.hardware import Hardware
    from flexplan.job import BenchReport, DemoReport, Finding, Shares
    from flexplan.model import ModelShape
    from flexplan.plan import Plan
    from flexplan.policy import Policy

KINDS = {"w": "weights", "cache": "KV cache", "act": "activations"}
SWITCHES = ("overlap", "sep_layer", "pin_weight", "cpu_cache_compute", "compress_weight", "compress_cache")
Row = Sequence[str]
_PLAIN_WIDTH = 120  # of a file or a pipe
_NUMBER = re.compile(r"[-+]?[\d.,]+( |$)")  # what begins with a number is one


class _Visible(Console):
    """A console that shows the escape codes of a name, and obeys only its own."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def console() -> Console:
    """Standard output; plain where it is no terminal or NO_COLOR is set."""
    width = None if answers().isatty() else _PLAIN_WIDTH
    return _Visible(file=answers(), highlight=False, color_system=colours(), width=width)


def table(title: str, head: Sequence[str], rows: Iterable[Row]) -> RenderableType:
    """A table of words and numbers."""
    return _table(title, head, rows, lambda cell: _NUMBER.match(cell) is not None)


def words_table(head: Sequence[str], rows: Iterable[Row], title: str = "") -> RenderableType:
    """A table of words."""
    return _table(title, head, rows, lambda cell: False)


def _table(title: str, head: Sequence[str], rows: Iterable[Row], is_number: Callable[[str], bool]) -> RenderableType:
    """Columns of numbers stand to the right, columns of words to the left."""
    listed = list(rows)
    made = Table(
        box=None,
        header_style="dim",
        pad_edge=False,
        padding=(0, 3, 0, 0),
        show_header=any(head),
    )
    for n, name in enumerate(head):
        numbers = any(is_number(row[n]) for row in listed)
        made.add_column(name, justify="right" if numbers else "left", no_wrap=numbers, overflow="fold")
    for row in listed:
        made.add_row(*map(Text, row))
    return Group(Text(f"\n{title}", style="bold"), made) if title else Group(Text(""), made)


# -- a plan ----------------------------------------------------------------------------------------------------
def plan_view(plan: Plan) -> RenderableType:
    """What was asked, the policy, the shares, the memory and the speed."""
    return Group(
        *asked_lines(plan),
        policy_table(plan),
        shares_table(plan.policy, plan.realised),
        memory_table(plan),
        speed_table(plan),
    )


def asked_lines(plan: Plan) -> list[Text]:
    """The problem in words."""
    work, hardware = plan.problem.workload, plan.problem.hardware
    prompts = f"{work.num_prompts} prompts" if work.num_prompts else "one block of prompts"
    shortest = min(work.prompt_lens, default=work.prompt_len)
    length = f"{work.prompt_len}" if shortest == work.prompt_len else f"{shortest} to {work.prompt_len}"
    fewest = min(work.gen_lens, default=work.gen_len)
    new = f"{work.gen_len} new tokens each" if fewest == work.gen_len else f"{fewest} to {work.gen_len} new tokens"
    if work.expected_lens:
        rows = work.num_prompts or plan.policy.block_size
        new = f"up to {work.gen_len} new tokens, {work.new_tokens(rows) / rows:.0f} in the mean"
    lines = [f"{plan.problem.model.name}: {prompts} of {length} tokens, {new}"]
    if plan.problem.objective.bounded:
        lines.append(f"asked for: {plan.problem.objective}")
    if plan.problem.model.stored:
        lines.append(f"weights as stored: {stored_note(plan.problem.model)}")
    lines.append(f"hardware {hardware.name}{guess_note(hardware)}")
    return [Text(line) for line in lines]


def stored_note(model: ModelShape) -> str:
    """The format of a quantised checkpoint, and what it saves."""
    assert model.stored is not None
    tensors = weight_tensors(model)
    stored, plain = sum(t.nbytes for t in tensors), sum(t.unpacked_bytes for t in tensors)
    return f"{model.stored.name}; {format_size(stored)}, {format_size(plain)} unpacked"


def guess_note(hardware: Hardware) -> str:
    """Says so where the rates are not measured."""
    if not hardware.preset:
        return f", measured {hardware.measured_on}".rstrip(", ")
    return ": a guess, not measured here; `flexplan profile -o hardware.json` measures, `--hardware` takes the file"


def policy_table(plan: Plan) -> RenderableType:
    """Block and switches in one line each."""
    first, *rest = policy_lines(plan)
    head, _, tail = first.partition(" ")
    return Group(Text(""), Text.assemble((head, "bold"), f" {tail}"), *(Text(f"  {line}") for line in rest))


def policy_lines(plan: Plan) -> list[str]:
    """Who made the policy, its block, its switches."""
    p = plan.policy
    block = f"{p.gpu_batch_size} sequences x {p.num_gpu_batches} micro-batches = {p.block_size} a block"
    on = {name: getattr(p, name) for name in SWITCHES} | {"sep_layer": separates(plan.problem.model, p.sep_layer)}
    switches = [f"{name} {'on' if on[name] else 'off'}" for name in SWITCHES]
    switches += [f"attn_sparsity {p.attn_sparsity:g}"] if p.attn_sparsity < 1 else []
    switches += [f"{name} {getattr(p, name):g}" for name in ("admit_tokens", "room_percent") if getattr(p, name)]
    by = f"Policy by planner {plan.planner}, schedule {plan.schedule}"
    return [by, f"gpu_batch_size x num_gpu_batches: {block}", ", ".join(switches), *expert_lines(plan)]


def expert_lines(plan: Plan) -> list[str]:
    """What is sent of a mixture's experts, where that is not all of them."""
    model, rows = plan.problem.model, plan.policy.gpu_batch_size
    if not plan.policy.experts_on_demand:
        return []
    wanted = experts_touched(model, rows)
    each = f"about {wanted:.0f} of {model.num_experts} where each is as likely as another"
    return [
        f"experts_on_demand: of a layer's experts on the host, a decoding pass sends those its router chose, {each}"
    ]


def shares_table(policy: Policy, realised: Shares) -> RenderableType:
    """Asked and realised percents by tier."""
    rows = []
    for what, word in KINDS.items():
        if what not in realised:
            continue
        rows.append([word, "asked", *(f"{100 * share:.1f}" for share in policy.shares(what))])
        rows.append(["", "realised", *(f"{share:.1f}" for share in realised[what])])
    return table("Where things live, in percent", ("", "", *TIERS), rows)


def memory_table(plan: Plan) -> RenderableType:
    """Bytes of each tier against what was given."""
    return table("Memory", ("tier", "planned", "budget", "used"), memory_rows(plan))


def memory_rows(plan: Plan) -> list[Row]:
    """The rows of that table."""
    return [row for tier in TIERS for row in _memory_rows(plan, tier)]


def _memory_rows(plan: Plan, tier: str) -> list[Row]:
    given: int = getattr(plan.problem.hardware, f"{tier}_bytes")
    kept = given - plan.problem.budgets()[tier]
    used = plan.prediction.peak_bytes[tier] + kept
    rows: list[Row] = [[tier, format_size(used), format_size(given), share_of(used, given)]]
    if kept:
        rows.append(["  of it for the device's libraries", format_size(kept), "", ""])
    return rows


def speed_table(plan: Plan) -> RenderableType:
    """What the plan promises."""
    p = plan.prediction
    if not p.lane_busy_s.get("prefill") and not p.prefill_s:  # a job whose passes are prefill and decoding at once
        lane = p.busiest_lane.get("decode") or "-"
        short: list[Row] = [["tokens per second", f"{p.tokens_per_s:.2f}", ""]]
        return table("Predicted", ("", "", ""), [*short, ["the job", seconds(p.decode_s), f"busiest lane {lane}"]])
    rows: list[Row] = [
        ["tokens per second", f"{p.tokens_per_s:.2f}", ""],
        ["prefill", seconds(p.prefill_s), f"busiest lane {p.busiest_lane.get('prefill') or '-'}"],
        ["decode", seconds(p.decode_s), f"busiest lane {p.busiest_lane.get('decode') or '-'}"],
    ]
    return table("Predicted", ("", "", ""), rows)


# -- timelines -------------------------------------------------------------------------------------------------
def timeline_table(timeline: Timeline) -> RenderableType:
    """Busy seconds by lane."""
    rows = [
        [lane, seconds(timeline.lane_busy_s[lane]), share_of(timeline.lane_busy_s[lane], timeline.end_s)]
        for lane in in_order(timeline.lane_busy_s)
    ]
    return table("Busy by lane", ("lane", "busy", "of the time"), rows)


def forecast_table(timeline: Timeline) -> RenderableType:
    """Seconds of the first block."""
    times = {"prefill": timeline.prefill_s, "decode": timeline.decode_s, "total": timeline.end_s}
    rows = [[name, seconds(took)] for name, took in times.items()]
    return table(f"First block, {timeline.num_tasks:,} tasks", ("", "time"), rows)


def hardware_table(hardware: Hardware) -> RenderableType:
    """The fields of a hardware file, in units people read."""
    return words_table(("what", "value", "spread"), hardware_rows(hardware))


def hardware_rows(hardware: Hardware) -> list[Row]:
    """The rows of that table."""
    spreads = hardware.spread_percent
    return [
        [name, _in_units(name, value), f"+- {spreads[name]:.0f} %" if name in spreads else ""]
        for name, value in hardware.model_dump(exclude={"preset", "spread_percent"}).items()
    ]


def _in_units(name: str, value: object) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    if name.endswith("flops_per_s"):
        return f"{value / 1e12:.3g} Tflop/s" if value >= 1e12 else f"{value / 1e9:.3g} Gflop/s"
    if name.endswith("_per_s"):
        return f"{value / 1e9:.3g} GB/s"
    if name.endswith("_bytes"):
        return format_size(value)
    return f"{value * 1e6:.3g} us" if name.endswith("_s") else str(value)


def demo_view(report: DemoReport) -> RenderableType:
    """The text, the runs side by side, whether placement changed a token, and a model large enough to be timed."""
    last = list(report.runs.values())[-1]
    texts = [[str(c.prompt), " ".join((c.text or "").split())] for c in last.run.completions]
    return Group(
        words_table(("prompt", "what the model goes on with"), texts),
        table("Runs", _RUN_HEAD, [_run_row(name, run) for name, run in report.runs.items()]),
        Text(_WHY_NOT_TIMED),
        moved_table(last),
        shares_table(last.plan.policy, last.run.realised),
        Text(f"\ntokens equal: {'yes' if report.tokens_equal else 'no'} (to those of the run on one tier)"),
        Text("\nPredicted and measured, on random weights", style="bold"),
        bench_view(report.timed),
    )


def findings_table(findings: Iterable[Finding]) -> RenderableType:
    """What `flexplan doctor` looked at."""
    return words_table(("part", "state", "found", "costs"), ([f.part, f.state, f.found, f.costs] for f in findings))


_WHY_NOT_TIMED = (
    "Tasks of a model this small take microseconds, and what the operating system does between two of them as long:\n"
    "these predictions may be off by a factor. How well time is predicted, the larger model below shows."
)
_RUN_HEAD = ("", "weights gpu/cpu/disk %", "KV cache gpu/cpu/disk %", "tokens/s predicted", "measured")


def _run_row(name: str, run: BenchReport) -> Row:
    tokens = run.plan.problem.workload.new_tokens(len(run.run.completions))
    found = (run.run.realised.get(what) for what in ("w", "cache"))  # seats' caches are not counted by home
    shares = (" / ".join(f"{share:.0f}" for share in each) if each else "-" for each in found)
    return [name, *shares, *(f"{per_second(tokens, t.end_s):.1f}" for t in (run.predicted, run.measured))]


def bench_view(report: BenchReport) -> RenderableType:
    """Predicted beside measured."""
    p, m = report.predicted, report.measured
    prompts = len(report.run.completions)
    tokens = report.plan.problem.workload.new_tokens(prompts)
    phases = () if rolls(schedule_of(report.plan.schedule)) else ("prefill", "decode")
    rows: list[Row] = [_pair(name, getattr(p, f"{name}_s"), getattr(m, f"{name}_s")) for name in phases]
    rows.append(_pair("total", p.end_s, m.end_s))
    rates = [per_second(tokens, timeline.end_s) for timeline in (p, m)]
    rows.append(["tokens per second", *(f"{rate:.2f}" for rate in rates), gap(*rates)])
    lanes = in_order({**p.lane_busy_s, **m.lane_busy_s})
    busy = [_pair(lane, p.lane_busy_s.get(lane, 0.0), m.lane_busy_s.get(lane, 0.0)) for lane in lanes]
    head = ("", "predicted", "measured", "gap")
    return Group(
        *asked_lines(report.plan),
        table("Time", head, rows),
        table("Busy by lane", head, busy),
        peak_table(report),
        moved_table(report),
        shares_table(report.plan.policy, report.run.realised),
    )


def peak_table(report: BenchReport) -> RenderableType:
    """Planned memory beside what was really held."""
    planned, real = report.plan.prediction.peak_bytes, report.run.peak_bytes
    rows: list[Row] = [
        [tier, format_size(planned[tier]), format_size(real.get(tier, 0)), gap(planned[tier], real.get(tier, 0))]
        for tier in TIERS
    ]
    if report.device_peak_bytes is not None:
        rows.append(["gpu, by its allocator", "", format_size(report.device_peak_bytes), ""])
    return table("Memory at its highest", ("tier", "planned", "held", "gap"), rows)


def moved_table(report: BenchReport) -> RenderableType:
    """Bytes that the plan moves beside those counted where they moved."""
    words = {"up_bytes": "host to device", "down_bytes": "device to host"}
    words |= {"read_bytes": "disk to host", "write_bytes": "host to disk"}
    rows = [[words.get(name, name), *map(format_size, pair), gap(*pair)] for name, pair in report.moved.items()]
    return table("Bytes moved", ("", "planned", "counted", "gap"), rows)


def _pair(name: str, predicted_s: float, measured_s: float) -> list[str]:
    return [name, seconds(predicted_s), seconds(measured_s), gap(predicted_s, measured_s)]


# -- words -----------------------------------------------------------------------------------------------------
def in_order(lanes: Iterable[str]) -> list[str]:
    """Lanes in the order of the graph's list, strangers last."""
    return sorted(lanes, key=lambda lane: (LANES.index(lane) if lane in LANES else len(LANES), lane))


def seconds(value: float) -> str:
    """A duration.

    >>> seconds(0.01234), seconds(349.2)
    ('12.3 ms', '349 s')
    """
    return format_duration(value)


def share_of(part: float, whole: float) -> str:
    """A share in percent."""
    return f"{100 * part / whole:.0f} %" if whole > 0 else "-"


def gap(predicted: float, measured: float) -> str:
    """How far the measured number is from the predicted one.

    >>> gap(2.0, 2.5)
    '+25 %'
    """
    return f"{100 * (measured - predicted) / predicted:+z.0f} %" if predicted > 0 else "-"


def per_second(count: float, duration_s: float) -> float:
    """A rate; 0 where no time passed."""
    return count / duration_s if duration_s > 0 else 0.0
