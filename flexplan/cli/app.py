"""The command line: ``flexplan solve``, ``run`` and the rest.  Everything heavy is imported inside the commands."""

from __future__ import annotations

from flexplan import signals

if signals.is_program():  # what is imported next takes a fifth of a second
    signals.listen()

import gc
from typing import Annotated

import typer

from flexplan.cli.outcome import Commands
from flexplan.cli.plan import explain, export, planners, report, simulate, solve
from flexplan.cli.run import bench, demo, doctor, lock, profile, run
from flexplan.cli.streams import guarded
from flexplan.report.answers import answering, say

app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (solve, simulate, explain, report, export, planners, run, bench, profile, lock, demo, doctor):
    app.command()(answering(command))


def main() -> None:
    """The program."""
    gc.set_threshold(100_000)  # planning makes tasks by the hundred thousand, none in a cycle: a sixth of its time
    signals.listen()
    signals.hearing(lambda: guarded(app))


def _say_version(asked: bool) -> None:
    if asked:
        import flexplan

        say(f"flexplan {flexplan.__version__}")
        raise typer.Exit


@app.callback()
def about(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version and end.")
    ] = False,
) -> None:
    """Plan and run language models that do not fit the GPU."""
