"""The flags of the command line: one alias each, so that every command spells, explains and completes them alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

SIZES = "16G, 16Gi and 16GiB count in 2**30, 16GB in 10**9"

# -- what a shell offers for a name; where none of these fits, it offers files ------------------------------------
Complete = Callable[[str], list[str]]


def _models(incomplete: str) -> list[str]:
    """The models known by name."""
    from flexplan.model.catalog import model_names

    return _beginning(incomplete, model_names())


def _machines(incomplete: str) -> list[str]:
    """The presets."""
    from flexplan.hardware import preset_names

    return _beginning(incomplete, preset_names())


def _planners(incomplete: str) -> list[str]:
    """Those that are installed."""
    from flexplan.plugins import PLANNERS, available

    return _beginning(incomplete, available(PLANNERS))


def _schedules(incomplete: str) -> list[str]:
    """Those that are installed."""
    from flexplan.plugins import SCHEDULES, available

    return _beginning(incomplete, available(SCHEDULES))


def one_of(*names: str) -> Complete:
    """One of a few words."""
    return lambda incomplete: _beginning(incomplete, names)  # typer goes by this name


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))


# -- the problem -------------------------------------------------------------------------------------------------
Model = Annotated[
    str | None,
    typer.Option(autocompletion=_models, help="A model's name, directory or config.json. [facebook/opt-30b]"),
]
GpuMem = Annotated[str | None, typer.Option(metavar="SIZE", help=f"GPU memory that may be used: {SIZES}.")]
CpuMem = Annotated[str | None, typer.Option(metavar="SIZE", help="Host memory that may be used.")]
DiskMem = Annotated[str | None, typer.Option(metavar="SIZE", help="Disk space that may be used.")]
PromptLen = Annotated[int | None, typer.Option(help="Tokens of a prompt. [512]")]
GenLen = Annotated[int | None, typer.Option(help="New tokens of a prompt; where more are allowed, in the mean. [32]")]
GenLens = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Answers as those seen before: a length a line, or columns new_tokens, maybe prompt_tokens, count.",
    ),
]
MostNewTokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens",
        min=1,
        help="The most new tokens, where a line does not say. [the longest of --gen-lens, else --gen-len]",
    ),
]
NumPrompts = Annotated[int | None, typer.Option(help="Prompts in all. [one block]")]
HardwareOption = Annotated[
    str | None,
    typer.Option(
        "--hardware",
        metavar="FILE|PRESET",
        autocompletion=_machines,
        help="A file of `flexplan profile`, or a preset.",
    ),
]
Prompts = Annotated[
    str | None, typer.Option(metavar="IN", help="Plan for the lengths of these prompts: text lines or JSONL.")
]
Lengths = Annotated[
    str | None,
    typer.Option(metavar="CSV", help="Plan for requests of these lengths: columns prompt_tokens,new_tokens."),
]
BenchLengths = Annotated[
    str | None,
    typer.Option("--lengths", metavar="CSV", help="Random prompts of these lengths: columns prompt_tokens,new_tokens."),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        autocompletion=one_of("text", "jsonl", "openai"),
        help="Of prompts: text, jsonl, openai. [by their file]",
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="For --prompts of text: where tokenizer.json is. [the --model directory]"),
]

# -- what the answer is to be best at ----------------------------------------------------------------------------
Objective = Annotated[
    str | None, typer.Option(help="throughput, latency:SECONDS a block, or memory:TOKENS_PER_S. [throughput]")
]
MaxLatency = Annotated[float | None, typer.Option(metavar="SECONDS", help="The longest that a block may take.")]
MinThroughput = Annotated[
    float | None, typer.Option(metavar="TOKENS_PER_S", help="Find the smallest memory that is as fast as this.")
]
Allow = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        autocompletion=one_of("4bit-weights", "4bit-cache", "sparse:0.1"),
        help="What may change tokens: 4bit-weights,4bit-cache,sparse:0.1. [nothing]",
    ),
]

# -- the answer --------------------------------------------------------------------------------------------------
Planner = Annotated[
    str | None,
    typer.Option(autocompletion=_planners, help="search, lp, manual, or one that is installed. [search]"),
]
Effort = Annotated[
    str | None,
    typer.Option(
        autocompletion=one_of("quick", "normal", "thorough"),
        help="How long the planner search looks: quick, normal or thorough. [normal]",
    ),
]
PlannerTimeout = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", min=0.001, help="Time for a planner or schedule of another package. [60]"),
]
Schedule = Annotated[
    str | None,
    typer.Option(autocompletion=_schedules, help="zigzag, rolling, rowwise, or one that is installed. [zigzag]"),
]
Percents = tuple[float, float, float, float, float, float]
Percent = Annotated[
    Percents | None,
    typer.Option(
        metavar="WG WC CG CC AG AC",
        help="For planner manual: percent of weights, KV cache and activations on GPU and CPU; the rest is on disk.",
    ),
]
GpuBatchSize = Annotated[int | None, typer.Option(help="For planner manual: sequences in a micro-batch.")]
NumGpuBatches = Annotated[int | None, typer.Option(help="For planner manual: micro-batches in a block.")]
Overlap = Annotated[bool | None, typer.Option("--overlap/--no-overlap", help="Move data while computing.")]
SepLayer = Annotated[bool | None, typer.Option("--sep-layer/--no-sep-layer", help="Attention and MLP are two layers.")]
PinWeight = Annotated[bool | None, typer.Option("--pin-weight/--no-pin-weight", help="Page-locked weights.")]
CpuCacheCompute = Annotated[
    bool | None, typer.Option("--cpu-cache-compute/--no-cpu-cache-compute", help="Attention over host KV on the host.")
]

# -- files -------------------------------------------------------------------------------------------------------
PolicyFile = Annotated[str, typer.Argument(metavar="POLICY", help="What `flexplan solve -o` wrote, or policy fields.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]

# -- running -----------------------------------------------------------------------------------------------------
RunModel = Annotated[
    str | None,
    typer.Option("--model", metavar="DIR_OR_NAME", autocompletion=_models, help="The model. [the plan's]"),
]
OffloadDir = Annotated[Path, typer.Option(help="Directory of the disk tier.")]
Device = Annotated[str | None, typer.Option(help="cuda:0 or cpu. [cuda:0 where there is one]")]
Dtype = Annotated[
    str | None,
    typer.Option(
        autocompletion=one_of("float32", "float16", "bfloat16"),
        help="float32, float16 or bfloat16. [the checkpoint's]",
    ),
]
PackedCache = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Keep packed weights there; the next start reads them. [none]")
]
MaxNewTokens = Annotated[
    int | None, typer.Option(help="New tokens, where a line does not say. [the plan's gen_len, else 32]")
]
Seed = Annotated[int, typer.Option(min=-(1 << 63), max=(1 << 63) - 1, help="Of drawn tokens, and of dummy weights.")]
Record = Annotated[
    Path | None, typer.Option("--record", metavar="FILE", help="Write what `flexplan report` shows of this run.")
]
Dummy = Annotated[bool, typer.Option(help="Random weights; without --prompts random prompts, too.")]
BenchDummy = Annotated[bool, typer.Option(help="Random weights; prompts are random anyway.")]
