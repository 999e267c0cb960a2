"""Launching a job: what the commands that need a runtime do around it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from flexplan.cli.output import deliver, refuse_existing, refuse_unwritable
from flexplan.cli.progress import Progress
from flexplan.errors import NoNumbers
from flexplan.hardware import Hardware
from flexplan.job import BenchReport, DemoReport, RunReport, RunRequest, find_runtime
from flexplan.problem import Prompt, new_tokens_of, read_prompts, refuse_greedy
from flexplan.report.objects import completion_line, summary

_LINE_BYTES = 90  # of an output line, beside the prompt and its answer


# -- run ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class OutputFile:
    """Where a job writes, what it reads, and whether what is there may be replaced."""

    path: Path
    inputs: tuple[str | None, ...] = ()
    overwrite: bool = False

    def refuse(self, prompts: Iterable[Prompt]) -> None:
        """Raise what can be known before the work; an answer repeats its prompt."""
        at_least_bytes = sum(len(prompt.content) + _LINE_BYTES for prompt in prompts)
        refuse_unwritable(self.path, self.inputs, at_least_bytes)
        if not self.overwrite:
            refuse_existing(self.path)


def run_to_file(
    request: RunRequest, prompts: str | None, output: OutputFile, form: str = "auto", *, typed_tokens: bool = False
) -> None:
    """Read the prompts, run them and write one JSON line each."""
    given = None if prompts is None else read_prompts(prompts, form)
    if request.do_sample:
        refuse_greedy(given or ())
    output.refuse(given or ())
    if given == ():
        print("there are no prompts", file=sys.stderr)
        deliver(output.path, "")
        return
    new_tokens = new_tokens_of(given or (), request.max_new_tokens, "--max-new-tokens" if typed_tokens else "")
    request = replace(request, prompts=given or (), max_new_tokens=new_tokens)
    with Progress() as progress:
        report = find_runtime().run(request, progress)
    lines = "".join(completion_line(c) for c in report.completions)
    deliver(output.path, lines, (request.offload_dir,))
    print(summary(report), file=sys.stderr)
    _refuse_broken(report)


def _refuse_broken(report: RunReport) -> None:
    """Raise NoNumbers, the output being written, where a prompt could not be completed."""
    broken = [c for c in report.completions if c.finish_reason == "error"]
    if broken:
        names = ", ".join(repr(c.id)[:60] for c in broken[:10]) + (", ..." if len(broken) > 10 else "")
        raise NoNumbers(
            "FP1102",
            f"the logits of {len(broken)} of {len(report.completions)} prompts became NaN or infinite in "
            f"{report.dtype}: id {names}; in the output their finish_reason is error, all others are whole",
            fix="give --dtype bfloat16 or float32, or look for damaged weights",
        )


# -- bench and demo ----------------------------------------------------------------------------------------------
def bench(request: RunRequest, hardware: Hardware | None) -> BenchReport:
    """One block, predicted and measured."""
    with Progress() as progress:
        return find_runtime().bench(request, hardware, progress)


def demo() -> DemoReport:
    """The embedded model, from plan to tokens."""
    with Progress() as progress:
        return find_runtime().demo(lambda line: print(line, file=sys.stderr), progress)
