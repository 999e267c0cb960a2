"""The command line: ``flexplan solve``, ``run`` and the rest.  Everything heavy is imported inside the commands."""

from __future__ import annotations

from flexplan import signals

if signals.is_program():  # what is imported next takes a fifth of a second
    signals.listen()

import gc
from typing import Annotated

import typer

from flexplan.cli.outcome import QUIET, VERBOSE, Commands
from flexplan.cli.plan import explain, export, planners, report, simulate, solve
from flexplan.cli.run import bench, convert, demo, doctor, lock, profile, run
from flexplan.cli.serve import serve
from flexplan.cli.streams import guarded
from flexplan.report.answers import answering, say

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_PLANNING = (solve, simulate, explain, report, export, planners)
_WORKING = (run, bench, serve, profile, lock, convert, demo, doctor)
for command in (*_PLANNING, *_WORKING):
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
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    quiet: Annotated[bool, typer.Option(*QUIET, help="Say nothing but answers, warnings and errors.")] = False,
    verbose: Annotated[bool, typer.Option(*VERBOSE, help="Say more: progress every 5 s, what stages took.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version and end.")
    ] = False,
) -> None:
    """Plan and run language models that do not fit the GPU."""
