"""A code of an error means one thing: where several functions raise it, the table here says which thing."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import flexplan.errors
from flexplan.errors import FlexplanError

ROOT = Path(__file__).parents[1]
TOWERS = ("flexplan", "planners/flexplan_planners", "runtime/flexplan_runtime")

# what a code says that several functions raise, and the files they are in
SHARED = {
    "FP101": ("a size that cannot be taken", "units"),
    "FP114": ("an objective that cannot be taken", "objective"),
    "FP160": ("a problem file that cannot be read", "problem_file"),
    "FP164": ("an output that nothing can be written to", "output"),
    "FP206": ("settings that exclude each other", "policy"),
    "FP208": ("a plan file that does not read", "plan_file"),
    "FP303": ("a prompt without tokens", "lengths prompts"),
    "FP305": ("a token that is not of the vocabulary", "prompts scores"),
    "FP308": ("a tokenizer that fails on a prompt", "lengths tokenizer"),
    "FP315": ("a line or an array of prompts that is too long", "reading lines"),
    "FP316": ("prompts that are no lines of text, but a table or an archive", "reading lines"),
    "FP503": ("a value of config.json that is not allowed", "config fields rope token_rules"),
    "FP504": ("a model that flexplan does not support", "config fields reading rope"),
    "FP506": ("values of config.json that contradict each other", "fields rope"),
    "FP520": ("no model directory", "weights download"),
    "FP802": ("a graph's text that does not parse", "text"),
    "FP902": ("options that a plug-in does not take", "plugins sandbox"),
    "FP906": ("a plan that does not hold up", "thirdparty"),
    "FP909": ("a graph that is none", "bounds remote"),
}


class Raised(NamedTuple):
    """A code in the source: what it is given to, an error or a helper that makes one, and where."""

    code: str
    error: str
    file: str
    function: str


def raised() -> Iterator[Raised]:
    for tower in TOWERS:
        for path in sorted((ROOT / tower).rglob("*.py")):
            for function, call in calls(ast.parse(path.read_text(encoding="utf-8"))):
                for given in call.args[:1]:
                    if isinstance(given, ast.Constant) and re.fullmatch(r"FP\d+", str(given.value)):
                        yield Raised(given.value, ast.unparse(call.func), path.stem, function)


def calls(node: ast.AST, function: str = "") -> Iterator[tuple[str, ast.Call]]:
    """Every call, and the function it stands in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield function, child
        inner = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
        yield from calls(child, inner)


def test_a_code_means_one_thing() -> None:
    places = defaultdict[str, set[tuple[str, str]]](set)
    for found in raised():
        places[found.code].add((found.file, found.function))
    assert len(places) > 100  # it sees them
    several = {code: {file for file, _ in where} for code, where in places.items() if len(where) > 1}
    assert several == {code: set(files.split()) for code, (_, files) in SHARED.items()}


def test_every_code_of_the_source_is_seen() -> None:
    """None is built from parts, kept in a variable or given otherwise than first."""
    written = set[str]()
    for tower in TOWERS:
        for path in (ROOT / tower).rglob("*.py"):
            written |= set(re.findall(r"\"(FP\d+)\"", path.read_text(encoding="utf-8")))
    assert written == {found.code for found in raised()}


def is_error(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, FlexplanError)


def ranges() -> dict[str, str]:
    """The first digits of each error's codes, as the module's tree draws them."""
    return dict(re.findall(r"(\w+) +\d+ +(FP\d+)xx", flexplan.errors.__doc__ or ""))


def test_a_code_lies_in_the_range_of_its_error() -> None:
    drawn = ranges()
    assert set(drawn) == {name for name, thing in vars(flexplan.errors).items() if is_error(thing)} - {"FlexplanError"}
    for found in raised():
        if found.error in drawn:
            assert found.code[:-2] == drawn[found.error], found
