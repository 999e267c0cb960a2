"""The documents: links lead somewhere, every file has its sentence, examples are Python, flags exist."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from flexplan.cli.app import app
from flexplan.graph.kinds import KINDS

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = (".py", ".cpp", ".hpp")
each_document = pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)


def anchors(document: Path) -> set[str]:
    """What a heading is linked by."""
    words = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in words}


def named_files() -> list[str]:
    """The files of docs/structure.md: a heading names the folder, the first cell of a row the file."""
    folder, found = "", []
    for line in (ROOT / "docs" / "structure.md").read_text().splitlines():
        if line.startswith("## "):
            folder = ""
        if heading := re.match(r"##+ .*`([\w/]+/)`$", line):
            folder = heading[1]
        elif folder and (row := re.match(r"\| `(\w+\.\w+)` \|", line)):
            found.append(folder + row[1])
    return found


def sources() -> Iterator[str]:
    for room in ("flexplan", "planners", "runtime"):
        yield from (str(p.relative_to(ROOT)) for p in (ROOT / room).rglob("*") if p.suffix in SOURCES)


@each_document
def test_relative_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = document.parent / path if path else document
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@each_document
def test_examples_are_python(document: Path) -> None:
    for example in re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL):
        compile(example, document.name, "exec")


def test_every_file_has_its_sentence_and_every_sentence_its_file() -> None:
    assert sorted(named_files()) == sorted(sources())


def test_paths_in_prose_exist() -> None:
    rooms = "flexplan|planners|runtime|tests|examples|benchmarks|docs"
    for document in DOCS:
        for path in re.findall(rf"`((?:{rooms})/[\w/.-]+)`", document.read_text()):
            assert (ROOT / path).exists(), f"{document.name}: {path}"


def test_files_stand_in_the_order_of_the_floors() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    floors = [layer.strip("()") for layer in reversed(contracts[0]["layers"])]
    named = [Path(name).stem for name in named_files() if name.startswith("flexplan/")]
    assert named == [*floors, "__init__"]


def test_kinds_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.*) \| (.*) \|$", (ROOT / "docs" / "structure.md").read_text(), re.M)
    assert {kind: tuple(rest) for kind, *rest in rows} == {kind: tuple(known) for kind, known in KINDS.items()}


def test_flags_of_the_command_line_exist() -> None:
    program = typer.main.get_command(app)
    commands = [program, *program.commands.values()]  # type: ignore[attr-defined]
    known = {flag for c in commands for p in c.params for flag in (*p.opts, *p.secondary_opts)} | {"--help"}
    text = "\n".join(re.findall(r"flexplan (?:\w+ .*)|`--[\w-]+", (ROOT / "docs" / "cli.md").read_text()))
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)) <= known
