"""The command line: ``flexplan solve``, ``run`` and the rest.  Everything heavy is imported inside the commands."""

from __future__ import annotations

import gc
from typing import Annotated

import typer

from flexplan.answers import answering
from flexplan.outcome import Commands
from flexplan.plancommands import explain, export, planners, simulate, solve
from flexplan.runcommands import bench, demo, profile, run
from flexplan.streams import guarded

app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (solve, simulate, explain, export, planners, run, bench, profile, demo):
    app.command()(answering(command))


def main() -> None:
    """The program."""
    gc.set_threshold(100_000)  # planning makes tasks by the hundred thousand, none in a cycle: a sixth of its time
    guarded(app)


@app.callback()
def about(debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False) -> None:
    """Plan and run language models that do not fit the GPU."""
