"""Commands that plan: solve, simulate, explain, export, and the list of what is installed."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexplan.cli import options as opt
from flexplan.cli.output import deliver, refuse_unwritable
from flexplan.cli.progress import busy, note
from flexplan.errors import PolicyError, visible
from flexplan.report.answers import say

if TYPE_CHECKING:
    from flexplan.plan import Plan

_SYSTEMS = opt.one_of("device-map", "llama.cpp", "vllm")


def solve(
    context: typer.Context,
    problem_file: Annotated[
        str | None, typer.Argument(metavar="[PROBLEM.TOML]", help="A problem file; flags override it.")
    ] = None,
    gpu_mem: opt.GpuMem = None,
    cpu_mem: opt.CpuMem = None,
    disk_mem: opt.DiskMem = None,
    model: opt.Model = None,
    prompt_len: opt.PromptLen = None,
    gen_len: opt.GenLen = None,
    gen_lens: opt.GenLens = None,
    max_new_tokens: opt.MostNewTokens = None,
    num_prompts: opt.NumPrompts = None,
    prompts: opt.Prompts = None,
    lengths: opt.Lengths = None,
    form: opt.Format = None,
    tokenizer: opt.Tokenizer = None,
    hardware: opt.HardwareOption = None,
    objective: opt.Objective = None,
    max_latency: opt.MaxLatency = None,
    min_throughput: opt.MinThroughput = None,
    allow: opt.Allow = None,
    planner: opt.Planner = None,
    effort: opt.Effort = None,
    planner_timeout: opt.PlannerTimeout = None,
    schedule: opt.Schedule = None,
    percent: opt.Percent = None,
    gpu_batch_size: opt.GpuBatchSize = None,
    num_gpu_batches: opt.NumGpuBatches = None,
    overlap: opt.Overlap = None,
    sep_layer: opt.SepLayer = None,
    pin_weight: opt.PinWeight = None,
    cpu_cache_compute: opt.CpuCacheCompute = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the plan there.")] = None,
    as_json: opt.JsonFlag = False,
) -> None:
    """Find where every tensor lives, and how fast that will be."""  # the flags are read by name, off the context
    from flexplan.cli.problem_file import ProblemFile
    from flexplan.plan import PLANNER_TIMEOUT_S
    from flexplan.plan import solve as solve_problem

    asked = ProblemFile.asked(problem_file, context.params)
    name, settings = asked.chosen_planner()
    problem = asked.problem()
    if output is not None:
        refuse_unwritable(
            output,
            (
                problem_file,
                asked.model,
                asked.hardware,
                asked.prompts,
                asked.lengths,
                asked.gen_lens,
                asked.tokenizer,
            ),
        )
    with busy(f"{name} is planning"):
        plan = solve_problem(problem, name, timeout_s=asked.planner_timeout or PLANNER_TIMEOUT_S, **settings)
    if output is not None:
        deliver(output, plan.to_json() + "\n")
    if as_json:
        say(plan.to_json())
    else:
        _show_plan(plan)


def simulate(
    policy: opt.PolicyFile,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a Chrome trace, for ui.perfetto.dev.")
    ] = None,
    as_json: opt.JsonFlag = False,
) -> None:
    """Play a plan's first block on paper."""
    from flexplan.plan import simulate as simulate_plan

    plan = _load_plan(policy)
    if trace is not None:
        refuse_unwritable(trace, (policy,))
    with busy("simulating"):
        timeline = simulate_plan(plan, keep=trace is not None)
    if trace is not None:
        deliver(trace, timeline.chrome_trace())
    if as_json:
        seconds = {"prefill_s": timeline.prefill_s, "decode_s": timeline.decode_s, "total_s": timeline.end_s}
        say(json.dumps(seconds | {"num_tasks": timeline.num_tasks, "lane_busy_s": timeline.lane_busy_s}, indent=2))
        return
    from flexplan.report import tables

    tables.console().print(*tables.asked_lines(plan), tables.forecast_table(timeline), tables.timeline_table(timeline))


def explain(policy: opt.PolicyFile, as_json: opt.JsonFlag = False) -> None:
    """Say what limits a plan, and what more of each resource would bring."""
    from flexplan.explanation import explain as explain_plan

    plan = _load_plan(policy)
    with busy("solving again with more of each resource"):
        found = explain_plan(plan)
    if as_json:
        say(json.dumps(found.to_dict(), indent=2))
        return
    from flexplan.report import sentences, tables

    tables.console().print(sentences.explanation_view(found))


def report(
    policy: opt.PolicyFile,
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="What `flexplan run` or `bench` wrote with --record.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The HTML file.")] = Path(
        "report.html"
    ),
) -> None:
    """Write what explain says, and what a run was like, as one HTML page that needs no network."""
    from flexplan.explanation import explain as explain_plan
    from flexplan.job import read_recording, refuse_other_plan
    from flexplan.report.html import html_report

    plan = _load_plan(policy)
    recording = None if run is None else read_recording(run)
    if recording:
        refuse_other_plan(plan, recording)
    refuse_unwritable(output, (policy, run))
    with busy("solving again with more of each resource"):
        page = html_report(explain_plan(plan), recording)
    deliver(output, page)
    note(f"written to {output}")


def export(
    policy: opt.PolicyFile,
    to: Annotated[
        str, typer.Option("--to", metavar="SYSTEM", autocompletion=_SYSTEMS, help="device-map, llama.cpp or vllm.")
    ],
    as_json: opt.JsonFlag = False,
) -> None:
    """Say a plan in the words of another system: those on standard output, what they leave out on standard error."""
    from flexplan.export import export_plan, export_text

    found = export_plan(_load_plan(policy), to)
    if as_json:
        say(json.dumps(asdict(found), indent=2))
        return
    say(visible(export_text(found)))
    for line in found.report():
        print(visible(line), file=sys.stderr)


def planners(as_json: opt.JsonFlag = False) -> None:
    """List the planners, schedules and runtimes that are installed."""
    from flexplan.plugins import PLANNERS, RUNTIMES, SCHEDULES, available

    rows = [
        (
            group.partition(".")[2],
            point.name,
            point.value,
            f"{point.dist.name} {point.dist.version}" if point.dist else "",
        )
        for group in (PLANNERS, SCHEDULES, RUNTIMES)
        for _, point in sorted(available(group).items())
    ]
    if as_json:
        say(json.dumps([dict(zip(("group", "name", "object", "origin"), row, strict=True)) for row in rows], indent=2))
        return
    from flexplan.report import tables

    tables.console().print(tables.words_table(("group", "name", "object", "origin"), rows))


# -- what the commands share -------------------------------------------------------------------------------------
def _load_plan(path: str) -> Plan:
    from flexplan.plan import Plan, load_policy

    found = load_policy(path)
    if isinstance(found, Plan):
        return found
    raise PolicyError(
        "FP212",
        f"{path} holds policy fields only, not the problem they answer",
        fix="make a plan: flexplan solve -o FILE",
    )


def _show_plan(plan: Plan) -> None:
    from flexplan.report import sentences, tables

    tables.console().print(tables.plan_view(plan), sentences.in_short(plan))
