"""The documents: links lead somewhere, every file has its sentence, examples are Python, flags exist."""

from __future__ import annotations

import ast
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from tokenize import COMMENT, tokenize

import networkx
import pytest
import typer

from flexplan.cli.app import app
from flexplan.graph import KINDS

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = (".py", ".cpp", ".hpp")
each_document = pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)


def anchors(document: Path) -> set[str]:
    """What a heading is linked by."""
    words = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in words}


ROOMS = {"flexplan": ROOT / "flexplan", "planners": ROOT / "planners", "runtime": ROOT / "runtime"}
MOST_FILES = 14  # of a folder: beyond, a newcomer loses the way


def folders() -> Iterator[Path]:
    """The rooms: every folder with an ``__init__.py`` below the three towers, itself included."""
    for tower in ROOMS.values():
        yield from sorted(init.parent for init in tower.rglob("__init__.py"))


def face(folder: Path) -> str:
    return ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""


def told(folder: Path) -> dict[str, str]:
    """What its face says of each thing in it, by the thing's name: the paragraph that begins with one."""
    there = files_of(folder) | folders_in(folder)
    lists = [part for part in face(folder).split("\n\n")[1:] if part.split()[0] in there]
    lines = [line for part in lists for line in part.splitlines() if line[0].strip()]
    return {name: sentence.strip() for name, _, sentence in (line.partition(" ") for line in lines)}


def files_of(folder: Path) -> set[str]:
    named = (path for path in folder.iterdir() if path.suffix in SOURCES and path.name != "__init__.py")
    return {path.stem if path.suffix == ".py" else path.name for path in named}


def folders_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "flexplan" else parts[1:])


def imported(path: Path) -> Iterator[str]:
    """Our modules that a file imports, not those of ``if TYPE_CHECKING``."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in for_types:
            yield from [node.module] if node.module and node.module.startswith("flexplan") else []


def order() -> list[str]:
    """The folders as the import rules order them, the lowest first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = {contract["containers"][0]: contract["layers"] for contract in contracts if contract["type"] == "layers"}
    places = {"flexplan": "flexplan", "flexplan_planners": "planners", "flexplan_runtime": "runtime"}
    return [
        f"{room}.{name.strip()}" for room in places for layer in reversed(layers[room]) for name in layer.split("|")
    ]


def rooms() -> str:
    """The list of rooms in docs/structure.md: the first sentence of each folder's face.

    A file that stands in a tower beside its folders, such as a planner, is a room of its own.
    """
    ranks = {name: rank for rank, name in enumerate(order())}
    lines: list[tuple[str, int, str]] = []
    for folder in folders():
        parts = folder.relative_to(ROOT).parts
        package = parts if parts[0] == "flexplan" else parts[1:]
        if len(package) == 1:
            for name, sentence in told(folder).items():
                rank = ranks.get(f"{package[0]}.{name}", len(ranks))  # nothing imports what stands outside the order
                lines.append((parts[0], rank, f"| `{'/'.join(parts)}/{name}.py` | {sentence} |"))
        else:
            rank = ranks[".".join(package[:2])]
            lines.append((parts[0], rank, f"| `{'/'.join(parts)}/` | {face(folder).splitlines()[0]} |"))
    tables = []
    for tower in ROOMS:
        rows = [line for room, _, line in sorted(lines) if room == tower]
        tables.append("\n".join(["| room | what it is |", "|---|---|", *rows]))
    return "\n\n".join(tables)


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


def test_a_room_says_what_lies_in_it() -> None:
    """A line a file, no more and no less; a folder within may have one, too."""
    for folder in folders():
        named, files = set(told(folder)), files_of(folder)
        assert files <= named, f"{folder.relative_to(ROOT)}: {sorted(files - named)} have no line"
        gone = named - files - folders_in(folder)
        assert not gone, f"{folder.relative_to(ROOT)}: {sorted(gone)} are not there"
        assert len(files) <= MOST_FILES, f"{folder.relative_to(ROOT)} is a hall"


def test_the_page_lists_the_rooms() -> None:
    page = ROOT / "docs" / "structure.md"
    head, _, rest = page.read_text().partition("<!-- rooms -->\n")
    _, mark, tail = rest.partition("<!-- end of rooms -->")
    wanted = f"{head}<!-- rooms -->\n{rooms()}\n{mark}{tail}"
    if os.environ.get("FLEXPLAN_WRITE_DOCS"):
        page.write_text(wanted)
    assert page.read_text() == wanted, "write it anew: FLEXPLAN_WRITE_DOCS=1 pytest tests/test_docs.py"


def test_every_benchmark_has_its_question() -> None:
    folder = ROOT / "benchmarks"
    scripts = {path.name for path in folder.glob("*.py")} - {"common.py", "peer.py"}
    told = set(re.findall(r"`python benchmarks/(\w+\.py)", (folder / "README.md").read_text(encoding="utf-8")))
    assert told == scripts


def test_no_files_import_each_other_in_a_circle() -> None:
    """At the top of a file or inside of a function; what only types need does not count."""
    graph = networkx.DiGraph()
    for tower in ("flexplan", "planners/flexplan_planners", "runtime/flexplan_runtime"):
        for path in (ROOT / tower).rglob("*.py"):
            if path.name != "__init__.py":
                graph.add_edges_from((module_of(path), name) for name in imported(path))
    circles = [part for part in networkx.strongly_connected_components(graph) if len(part) > 1]
    assert not circles


def test_no_room_has_a_public_name() -> None:
    """Or ``from flexplan import simulate`` would give a folder once it was imported."""
    import flexplan

    assert not {folder.name for folder in folders()} - {"flexplan"} & set(flexplan.__all__)


def test_paths_in_prose_exist() -> None:
    rooms = "flexplan|planners|runtime|tests|examples|benchmarks|docs"
    for document in (d for d in DOCS if d.name != "CHANGELOG.md"):  # which remembers what was moved
        for path in re.findall(rf"`((?:{rooms})/[\w/.-]+)`", document.read_text()):
            assert (ROOT / path).exists(), f"{document.name}: {path}"


def prose() -> Iterator[tuple[str, str]]:
    """Documents, docstrings and comments, each with the name of its file; not what remembers other houses."""
    for document in DOCS:
        if document.name not in ("CHANGELOG.md", "coming-from-flexllmgen.md"):
            yield document.name, document.read_text()
    for folder in (*ROOMS.values(), ROOT / "tests", ROOT / "benchmarks", ROOT / "examples"):
        for path in folder.rglob("*.py"):
            tree = ast.parse(path.read_text())
            documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            told = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, documented)]
            with path.open("rb") as file:
                told += [token.string for token in tokenize(file.readline) if token.type == COMMENT]
            yield str(path.relative_to(ROOT)), "\n".join(told)


def test_files_that_prose_names_exist() -> None:
    """By the end of their path: ``cost/rates.py`` must lie in a folder ``cost``."""
    there = [f"/{path.relative_to(ROOT)}" for path in ROOT.rglob("*.py")]
    there = [path for path in there if "/." not in path]  # of ours, not of an environment
    named = [(where, name) for where, text in prose() for name in re.findall(r"[\w/]*\w\.py\b", text)]
    assert len(named) > 50  # it sees them
    gone = [pair for pair in named if not any(path.endswith(f"/{pair[1].lstrip('/')}") for path in there)]
    assert not gone


def test_functions_that_the_walks_name_are_in_their_files() -> None:
    page = " ".join((ROOT / "docs" / "structure.md").read_text().split())
    named = re.findall(r"`([\w.]+)`,? \(`([\w/]+\.py)`", page)
    assert len(named) > 20  # it sees them
    code = {f"/{path.relative_to(ROOT)}": path.read_text() for tower in ROOMS.values() for path in tower.rglob("*.py")}
    for name, file in named:
        places = [text for path, text in code.items() if path.endswith(f"/{file}")]
        defined = re.compile(rf"^ *(async def|def|class) {name.rpartition('.')[2]}\b", re.MULTILINE)
        assert any(map(defined.search, places)), f"{name} is not in {file}"


def test_kinds_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.*) \| (.*) \|$", (ROOT / "docs" / "structure.md").read_text(), re.M)
    assert {kind: tuple(rest) for kind, *rest in rows} == {kind: tuple(known) for kind, known in KINDS.items()}


def test_flags_of_the_command_line_exist() -> None:
    program = typer.main.get_command(app)
    commands = [program, *program.commands.values()]  # type: ignore[attr-defined]
    known = {flag for c in commands for p in c.params for flag in (*p.opts, *p.secondary_opts)} | {"--help"}
    text = "\n".join(re.findall(r"flexplan (?:\w+ .*)|`--[\w-]+", (ROOT / "docs" / "cli.md").read_text()))
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)) <= known
