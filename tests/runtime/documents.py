"""The commands that the documents show, and the parsers of those who would run them."""

from __future__ import annotations

import argparse
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from flexplan.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
PROGRAMS = re.compile(r"(\$ )?(flexplan|python|make|pip|pytest|\.ci/run)( .*|$)")


class Shown(NamedTuple):
    """A command of a page, and the error that the page shows below it, or none."""

    words: str
    error: str | None


def shown(page: str) -> Iterator[Shown]:
    """The commands in the blocks of a page that are no other language."""
    for language, block in re.findall(r"^ *```([^\n]*)\n(.*?)^ *```$", (ROOT / page).read_text(), re.S | re.M):
        if language:
            continue
        lines = [re.sub(r"\s{2,}#.*", "", line).strip() for line in re.sub(r"\\\n\s*", "", block).splitlines()]
        for line, below in zip(lines, [*lines[1:], ""], strict=True):
            if found := PROGRAMS.fullmatch(line):
                error = re.match(r"error\[(FP\d+)\]", below)
                yield Shown(line.removeprefix("$ "), error[1] if error and found[1] else None)


def shown_with(beginning: str) -> list[str]:
    """All commands that begin so, of all pages, each once."""
    found = (command.words for page in PAGES for command in shown(page))
    return [words for words in dict.fromkeys(found) if words.startswith(beginning)]


# -- parsed by whoever would run it: a wrong flag, target or extra fails ---------------------------------------------
def parse_flexplan(words: str) -> None:
    """By the command line itself, up to where the command would begin."""
    root: Any = typer.main.get_command(app)
    _, name, *rest = shlex.split(words)
    around = root.make_context("flexplan", [name])
    root.get_command(around, name).make_context(name, rest, around)


def parse_make(words: str) -> None:
    """By make, which says what it would do."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "-n", *shlex.split(words)[1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and done.stdout, done.stderr


def parse_checks(words: str) -> None:
    """By the shell."""
    assert words == ".ci/run"
    subprocess.run(["bash", "-n", str(ROOT / words)], check=True)
    assert os.access(ROOT / words, os.X_OK)


def parse_pip(words: str) -> None:
    """By pip; extras are those of the project, and a version that is named is the one the checks install."""
    from pip._internal.commands import create_command

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    _, name, *rest = shlex.split(re.sub(r"flexplan(\[\w+\]) @ git\+<[^>]*>", r".\1", words))
    options, wanted = create_command(name).parse_args(rest)
    for asked in (*wanted, *options.editables):
        if asked.startswith("."):
            extras = re.fullmatch(r"\.(?:\[([\w,]+)\])?", asked)
            assert extras and set((extras[1] or "dev").split(",")) <= project["optional-dependencies"].keys()
        else:
            assert "==" in asked and asked in (ROOT / ".ci/run").read_text()


def parse_pytest(words: str) -> None:
    """A marker that there is."""
    _, flag, marker = shlex.split(words)
    markers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    assert flag == "-m" and any(line.startswith(f"{marker}:") for line in markers)


class _Parsed(Exception):
    """The script would begin now."""


def parse_script(words: str) -> None:
    """By the script itself, up to where its work begins."""
    real = argparse.ArgumentParser.parse_args

    def parse(*args: object, **kwargs: object) -> object:
        real(*args, **kwargs)  # type: ignore[call-overload]
        raise _Parsed

    with pytest.MonkeyPatch.context() as patched, pytest.raises(_Parsed):
        patched.setattr(argparse.ArgumentParser, "parse_args", parse)
        run_script(words)


def run_script(words: str) -> None:
    """A script of the benchmarks, in this process."""
    _, script, *rest = shlex.split(words)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", [script, *rest])
        patched.setattr(sys, "path", [str((ROOT / script).parent), *sys.path])
        runpy.run_path(str(ROOT / script), run_name="__main__")
