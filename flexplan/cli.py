"""The command line: ``flexplan solve``, ``run`` and the rest.  Everything heavy is imported inside the commands."""

from __future__ import annotations

import gc
import json
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flexplan import options as opt
from flexplan.errors import PolicyError, UsageError
from flexplan.outcome import Commands
from flexplan.outfiles import refuse_unwritable, save, write_text

if TYPE_CHECKING:
    from flexplan.plan import Plan
    from flexplan.policy import Policy

_HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    cls=Commands, add_completion=False, no_args_is_help=True, rich_markup_mode=None, context_settings=_HELP
)


def main() -> None:
    """The program."""
    gc.set_threshold(100_000)  # planning makes tasks by the hundred thousand, none in a cycle: a sixth of its time
    app()


@app.callback()
def about(debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False) -> None:
    """Plan and run language models that do not fit the GPU."""


@app.command()
def solve(
    job: Annotated[str | None, typer.Argument(metavar="[JOB.TOML]", help="A problem file; flags override it.")] = None,
    gpu_mem: opt.GpuMem = None,
    cpu_mem: opt.CpuMem = None,
    disk_mem: opt.DiskMem = None,
    model: opt.Model = None,
    prompt_len: opt.PromptLen = None,
    gen_len: opt.GenLen = None,
    num_prompts: opt.NumPrompts = None,
    prompts: opt.Prompts = None,
    tokenizer: opt.Tokenizer = None,
    hardware: opt.HardwareOption = None,
    objective: opt.Objective = None,
    max_latency: opt.MaxLatency = None,
    min_throughput: opt.MinThroughput = None,
    allow: opt.Allow = None,
    planner: opt.Planner = None,
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
    """Find where every tensor lives, and how fast that will be."""
    from flexplan.jobfile import JobFile
    from flexplan.planning import PLANNER_TIMEOUT_S
    from flexplan.planning import solve as solve_problem

    flags = {
        "model": model,
        "hardware": hardware,
        "gpu_mem": gpu_mem,
        "cpu_mem": cpu_mem,
        "disk_mem": disk_mem,
        "prompt_len": prompt_len,
        "gen_len": gen_len,
        "num_prompts": num_prompts,
        "prompts": prompts,
        "tokenizer": tokenizer,
        "objective": objective,
        "max_latency": max_latency,
        "min_throughput": min_throughput,
        "allow": None if allow is None else allow.split(","),
        "planner": planner,
        "planner_timeout": planner_timeout,
        "schedule": schedule,
    }
    switches = {
        "gpu_batch_size": gpu_batch_size,
        "num_gpu_batches": num_gpu_batches,
        "overlap": overlap,
        "sep_layer": sep_layer,
        "pin_weight": pin_weight,
        "cpu_cache_compute": cpu_cache_compute,
    }
    fields = _percent_fields(percent) | {key: value for key, value in switches.items() if value is not None}
    asked = (JobFile.load(job) if job else JobFile(policy={})).over(flags, fields)
    name, settings = asked.chosen_planner()
    problem = asked.problem()
    if output is not None:
        refuse_unwritable(output)
    with _busy(f"{name} is planning"):
        plan = solve_problem(problem, name, timeout_s=asked.planner_timeout or PLANNER_TIMEOUT_S, **settings)
    if output is not None:
        write_text(output, plan.to_json() + "\n")
    if as_json:
        print(plan.to_json())
    else:
        _show_plan(plan)


@app.command()
def simulate(
    policy: opt.PolicyFile,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a Chrome trace, for ui.perfetto.dev.")
    ] = None,
    as_json: opt.JsonFlag = False,
) -> None:
    """Play a plan's first block on paper."""
    from flexplan.forecast import simulate as simulate_plan

    plan = _load_plan(policy)
    with _busy("simulating"):
        timeline = simulate_plan(plan, keep=trace is not None)
    if trace is not None:
        save(trace, timeline.to_chrome_trace)
    if as_json:
        seconds = {"prefill_s": timeline.prefill_s, "decode_s": timeline.decode_s, "total_s": timeline.end_s}
        print(json.dumps(seconds | {"num_tasks": timeline.num_tasks, "lane_busy_s": timeline.lane_busy_s}, indent=2))
        return
    from flexplan import tables

    tables.console().print(*tables.asked_lines(plan), tables.forecast_table(timeline), tables.timeline_table(timeline))


@app.command()
def explain(policy: opt.PolicyFile, as_json: opt.JsonFlag = False) -> None:
    """Say what limits a plan, and what more of each resource would bring."""
    plan = _load_plan(policy)
    with _busy("solving again with more of each resource"):
        found = plan.explain()
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))
        return
    from flexplan import sentences, tables

    tables.console().print(sentences.explanation_view(found))


@app.command()
def export(
    policy: opt.PolicyFile,
    to: Annotated[str, typer.Option("--to", metavar="SYSTEM", help="device-map, llama.cpp or vllm.")],
    as_json: opt.JsonFlag = False,
) -> None:
    """Say a plan in the words of another system: those on standard output, what they leave out on standard error."""
    from flexplan.exporting import export_plan, export_text

    found = export_plan(_load_plan(policy), to)
    if as_json:
        print(json.dumps(asdict(found), indent=2))
        return
    print(export_text(found))
    for line in found.report():
        print(line, file=sys.stderr)


@app.command()
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
        print(
            json.dumps([dict(zip(("group", "name", "object", "origin"), row, strict=True)) for row in rows], indent=2)
        )
        return
    from flexplan import tables

    tables.console().print(tables.words_table(("group", "name", "object", "origin"), rows))


@app.command()
def run(
    policy: opt.PolicyFile,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="JSONL of completions; - is standard output.")
    ],
    model: opt.RunModel = None,
    prompts: Annotated[str | None, typer.Option(metavar="IN", help="Text lines or JSONL; - is standard input.")] = None,
    gpu_mem: opt.GpuMem = None,
    cpu_mem: opt.CpuMem = None,
    disk_mem: opt.DiskMem = None,
    offload_dir: opt.OffloadDir = Path("offload"),
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    max_new_tokens: opt.MaxNewTokens = None,
    do_sample: Annotated[
        bool, typer.Option("--do-sample", help="Draw tokens; without it the likeliest is taken.")
    ] = False,
    temperature: Annotated[float | None, typer.Option(help="With --do-sample. [1.0]")] = None,
    top_k: Annotated[int | None, typer.Option(help="With --do-sample: only the likeliest so many.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="With --do-sample: only the likeliest that make up this much.")
    ] = None,
    seed: opt.Seed = 0,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Never stop at an end token.")] = False,
    dummy: opt.Dummy = False,
    prompt_len: Annotated[int | None, typer.Option(help="Tokens of a random prompt. [the plan's]")] = None,
) -> None:
    """Complete every prompt."""
    from flexplan import jobs

    drawing = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    jobs.refuse_idle_sampling(do_sample, drawing)
    budgets = jobs.sizes({"gpu": gpu_mem, "cpu": cpu_mem, "disk": disk_mem})
    if prompts is None and not dummy:
        raise UsageError("FP163", "there are no --prompts", fix="give --prompts FILE, or --dummy for random ones")
    request = jobs.request_of(
        _load_any(policy),
        model,
        budgets,
        offload_dir=offload_dir,
        device=device,
        dtype=dtype,
        max_new_tokens=max_new_tokens,
        do_sample=do_sample,
        seed=seed,
        stop_at_end_token=not ignore_eos,
        dummy=dummy,
        dummy_prompt_len=prompt_len,
        **{key: value for key, value in drawing.items() if value is not None},
    )
    jobs.run_to_file(request, prompts, output)


@app.command()
def bench(
    policy: opt.PolicyFile,
    model: opt.RunModel = None,
    hardware: opt.HardwareOption = None,
    gpu_mem: opt.GpuMem = None,
    cpu_mem: opt.CpuMem = None,
    disk_mem: opt.DiskMem = None,
    offload_dir: opt.OffloadDir = Path("offload"),
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    prompt_len: opt.PromptLen = None,
    max_new_tokens: opt.MaxNewTokens = None,
    seed: opt.Seed = 0,
    dummy: opt.Dummy = False,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write both timelines as one Chrome trace.")
    ] = None,
    as_json: opt.JsonFlag = False,
) -> None:
    """Run one block of random prompts, and lay what was predicted beside what was measured."""
    from flexplan import jobs
    from flexplan.hardware import hardware_from

    request = jobs.request_of(
        _load_any(policy),
        model,
        jobs.sizes({"gpu": gpu_mem, "cpu": cpu_mem, "disk": disk_mem}),
        offload_dir=offload_dir,
        device=device,
        dtype=dtype,
        max_new_tokens=max_new_tokens,
        seed=seed,
        stop_at_end_token=False,
        dummy=dummy,
        dummy_prompt_len=prompt_len,
    )
    machine = None if hardware is None else hardware_from(hardware)
    report = jobs.bench(request, machine)
    if trace is not None:
        save(trace, lambda path: report.predicted.to_chrome_trace(path, ("measured", report.measured)))
    if as_json:
        print(json.dumps(jobs.bench_object(report), indent=2))
        return
    from flexplan import tables

    tables.console().print(tables.bench_view(report))


@app.command()
def profile(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The hardware file.")] = Path(
        "hardware.json"
    ),
    device: opt.Device = None,
    offload_dir: opt.OffloadDir = Path("offload"),
    as_json: opt.JsonFlag = False,
) -> None:
    """Measure this machine, for `--hardware`."""
    from flexplan.running import find_runtime

    refuse_unwritable(output)
    found = find_runtime().profile(device, offload_dir, lambda line: print(line, file=sys.stderr))
    found.save(output)
    if as_json:
        print(found.model_dump_json(indent=2))
        return
    from flexplan import tables

    tables.console().print(tables.hardware_table(found))
    print(f"written to {output}", file=sys.stderr)


@app.command()
def demo(as_json: opt.JsonFlag = False) -> None:
    """The whole path on the embedded model: plan, run, compare."""
    from flexplan import jobs

    report = jobs.demo()
    if as_json:
        print(json.dumps(jobs.demo_object(report), indent=2))
    else:
        from flexplan import tables

        tables.console().print(tables.demo_view(report))
    if not report.tokens_equal:
        raise typer.Exit(1)


# -- what the commands share -------------------------------------------------------------------------------------
def _percent_fields(percent: opt.Percents | None) -> dict[str, Any]:
    names = ("w_gpu", "w_cpu", "cache_gpu", "cache_cpu", "act_gpu", "act_cpu")
    return {} if percent is None else {f"{name}_percent": value for name, value in zip(names, percent, strict=True)}


def _load_any(path: str) -> Policy | Plan:
    from flexplan.plan import load_policy

    return load_policy(path)


def _load_plan(path: str) -> Plan:
    from flexplan.plan import Plan

    found = _load_any(path)
    if isinstance(found, Plan):
        return found
    raise PolicyError(
        "FP212",
        f"{path} holds policy fields only, not the problem they answer",
        fix="make a plan: flexplan solve -o FILE",
    )


def _show_plan(plan: Plan) -> None:
    from flexplan import sentences, tables

    tables.console().print(tables.plan_view(plan), sentences.in_short(plan))


def _busy(what: str) -> AbstractContextManager[object]:
    """A spinner on a terminal."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(what)
