"""Commands that work on this machine: run, bench, profile, lock, convert and demo."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flexplan.cli import options as opt
from flexplan.cli.outcome import stoppable
from flexplan.cli.output import deliver, is_kept, refuse_closed_output, refuse_same, refuse_unwritable
from flexplan.cli.progress import note
from flexplan.errors import UsageError
from flexplan.report.answers import say


def run(
    policy: opt.PolicyFile,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="JSONL of completions; - is standard output.")
    ],
    model: opt.RunModel = None,
    prompts: Annotated[str | None, typer.Option(metavar="IN", help="Text lines or JSONL; - is standard input.")] = None,
    form: opt.Format = None,
    gpu_mem: opt.GpuMem = None,
    cpu_mem: opt.CpuMem = None,
    disk_mem: opt.DiskMem = None,
    offload_dir: opt.OffloadDir = Path("offload"),
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    packed_cache: opt.PackedCache = None,
    max_new_tokens: opt.MaxNewTokens = None,
    do_sample: Annotated[
        bool, typer.Option("--do-sample", help="Draw tokens; without it the likeliest is taken.")
    ] = False,
    temperature: Annotated[float | None, typer.Option(help="Of draws. [the model's, else 1.0]")] = None,
    top_k: Annotated[int | None, typer.Option(help="Of draws: only the likeliest so many.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Of draws: only the likeliest that make up this much.")] = None,
    seed: opt.Seed = 0,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Never stop at an end token.")] = False,
    dummy: opt.Dummy = False,
    prompt_len: Annotated[int | None, typer.Option(help="Tokens of a random prompt. [the plan's]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in OUT.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the job in OUT, or begin it.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="With --resume: failed requests, too.")] = False,
    ordered: Annotated[bool, typer.Option("--ordered", help="Put OUT in the order of IN at the end.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="A bad request ends the job before it begins.")] = False,
    record: opt.Record = None,
    locked: Annotated[bool, typer.Option("--locked", help="Hold the model against its lock's SHA-256 sums.")] = False,
    ray: Annotated[bool, typer.Option("--ray", help="Spread the job over the workers of a Ray cluster.")] = False,
    ray_address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="With --ray: of a running one. [RAY_ADDRESS, else this machine]"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="With --ray: how many. [one a GPU, else one a machine]")
    ] = None,
) -> None:
    """Complete every prompt."""
    go_on = "give the same command again" if overwrite else "go on with --resume"
    with stoppable(go_on) if is_kept(output) else nullcontext():
        from flexplan.cli.launch import run_to_file
        from flexplan.cli.results import Target
        from flexplan.job import (
            Cluster,
            budget_bytes,
            refuse_idle_cluster,
            refuse_idle_format,
            refuse_idle_prompt_len,
            request_of,
        )
        from flexplan.plan import load_policy

        budgets = budget_bytes({"gpu": gpu_mem, "cpu": cpu_mem, "disk": disk_mem})
        refuse_idle_format(form, prompts)
        refuse_idle_prompt_len(prompt_len, prompts)
        refuse_idle_cluster(ray, {"ray_address": ray_address, "workers": workers})
        if prompts is None and not dummy:
            raise UsageError("FP163", "there are no --prompts", fix="give --prompts FILE, or --dummy for random ones")
        request = request_of(
            load_policy(policy),
            model,
            budgets,
            offload_dir=offload_dir,
            device=device,
            dtype=dtype,
            packed_cache=packed_cache,
            max_new_tokens=max_new_tokens,
            do_sample=do_sample,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop_at_end_token=not ignore_eos,
            dummy=dummy,
            dummy_prompt_len=prompt_len,
            strict=strict,
            record=record is not None,
            locked=locked,
            cluster=Cluster(ray_address, workers) if ray else None,
        )
        again = retry_failed or (resume and strict)  # which refuses them, if they still cannot be run
        target = Target(output, (policy, prompts, request.model), overwrite, resume, again, ordered)
        if record is not None:
            for written in target.files:
                refuse_same(record, written)
            refuse_unwritable(record, target.inputs)
        run_to_file(request, prompts, target, form or "auto", record=record)


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
    packed_cache: opt.PackedCache = None,
    prompt_len: opt.PromptLen = None,
    max_new_tokens: opt.MaxNewTokens = None,
    lengths: opt.BenchLengths = None,
    num_prompts: opt.NumPrompts = None,
    seed: opt.Seed = 0,
    dummy: opt.BenchDummy = False,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write both timelines as one Chrome trace.")
    ] = None,
    record: opt.Record = None,
    as_json: opt.JsonFlag = False,
) -> None:
    """Run random prompts, one block by default, and lay what was predicted beside what was measured."""
    from flexplan.cli import launch
    from flexplan.hardware import hardware_from
    from flexplan.job import budget_bytes, record_text, request_of
    from flexplan.plan import load_policy

    request = request_of(
        load_policy(policy),
        model,
        budget_bytes({"gpu": gpu_mem, "cpu": cpu_mem, "disk": disk_mem}),
        offload_dir=offload_dir,
        device=device,
        dtype=dtype,
        packed_cache=packed_cache,
        max_new_tokens=max_new_tokens,
        seed=seed,
        stop_at_end_token=False,
        dummy=dummy,
        dummy_prompt_len=prompt_len,
        dummy_lengths=launch.dummy_lengths(lengths, num_prompts, prompt_len, max_new_tokens),
        record=record is not None,
    )
    machine = None if hardware is None else hardware_from(hardware)
    refuse_closed_output()
    for written in (trace, record):
        if written is not None:
            refuse_unwritable(written, (policy, request.model, hardware, lengths))
    if trace is not None and record is not None:
        refuse_same(record, trace)
    report = launch.bench(request, machine)
    if as_json:
        from flexplan.report.objects import bench_object

        say(json.dumps(bench_object(report), indent=2))
    else:
        from flexplan.report import tables
        from flexplan.report.job import job_lines

        tables.console().print(tables.bench_view(report))
        for line in job_lines(report):
            tables.console().print(line)
    if trace is not None:  # last: what was measured is said, whatever becomes of the file
        deliver(trace, report.predicted.chrome_trace(("measured", report.measured)), (offload_dir,))
    if record is not None and report.recording is not None:
        deliver(record, record_text(report.recording), (offload_dir,))


def profile(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The hardware file.")] = Path(
        "hardware.json"
    ),
    device: opt.Device = None,
    offload_dir: opt.OffloadDir = Path("offload"),
    as_json: opt.JsonFlag = False,
) -> None:
    """Measure this machine, for `--hardware`."""
    from flexplan.job import find_runtime

    refuse_closed_output()
    refuse_unwritable(output)
    found = find_runtime().profile(device, offload_dir, note)
    if as_json:
        say(found.model_dump_json(indent=2))
    else:
        from flexplan.report import tables

        tables.console().print(tables.hardware_table(found))
    deliver(output, found.model_dump_json(indent=2) + "\n", (offload_dir,))
    note(f"written to {output}")


def doctor(as_json: opt.JsonFlag = False) -> None:
    """Say what this installation has and lacks, and what that costs; exit code 2 where something is broken."""
    from flexplan.cli.doctor import broken, examine

    findings = examine()
    if as_json:
        say(json.dumps({"ok": not broken(findings), "findings": list(map(asdict, findings))}, indent=2))
    else:
        from flexplan.report import tables

        tables.console().print(tables.findings_table(findings))
    if broken(findings):
        raise typer.Exit(2)


def demo(as_json: opt.JsonFlag = False) -> None:
    """The whole path on the embedded model: plan, run, compare."""
    from flexplan.cli import launch

    refuse_closed_output()
    report = launch.demo()
    if as_json:
        from flexplan.report.objects import demo_object

        say(json.dumps(demo_object(report), indent=2))
    else:
        from flexplan.report import tables

        tables.console().print(tables.demo_view(report))
    if not report.tokens_equal:
        raise typer.Exit(1)


def lock(
    model: Annotated[str, typer.Argument(metavar="DIR_OR_NAME", help="A model directory, or one that is downloaded.")],
    check: Annotated[bool, typer.Option("--check", help="Hold the files against the lock that is there.")] = False,
) -> None:
    """Write down what the files of a model are, by their SHA-256, or see that they still are it."""
    from flexplan.model.checkpoint import LOCK, verify_lock, write_lock
    from flexplan.model.places import here
    from flexplan.units import format_size

    place = here(model)
    found = verify_lock(place) if check else write_lock(place)
    size = format_size(sum(file.bytes for file in found.files.values()))
    say(f"{place / LOCK}: {len(found.files)} files, {size}, " + ("all as locked" if check else "locked"))


def convert(source: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="A GGUF file.")]) -> None:
    """Make a model directory of a GGUF file, once; the file's own path stands for it in all commands then."""
    from flexplan.errors import ModelFilesError
    from flexplan.job import find_runtime
    from flexplan.model.places import is_gguf

    if not is_gguf(source):
        raise ModelFilesError("FP544", f"{source}: is no GGUF file", fix="give the path of a .gguf file")
    say(f"{source} is converted to {find_runtime().convert(source)}")
