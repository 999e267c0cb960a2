"""constraints.txt: one version of everything that the extras bring, within pyproject.toml's ranges."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

packaging = pytest.importorskip("packaging.requirements")
ROOT = Path(__file__).resolve().parents[1]
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
BY_TORCH = re.compile(r"nvidia-|cuda-|triton|flexplan$")  # the CUDA build names its own


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


PINS = {plain(packaging.Requirement(line).name) for line in LINES}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = ("runtime", "eval", "serve", "docs", "ray", "dev")
DIRECT = [*EXTRAS["dependencies"], *(text for extra in PINNED for text in EXTRAS["optional-dependencies"][extra])]


def test_every_line_is_one_version_and_nothing_else() -> None:
    for line in LINES:
        assert re.fullmatch(r'[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*(; python_version (<|>=) "3\.\d+")?', line), line


@pytest.mark.parametrize("needed", [text for text in DIRECT if not text.startswith("flexplan")])
def test_each_pin_is_within_the_range_of_pyproject(needed: str) -> None:
    wanted = packaging.Requirement(needed)
    pins = [pin for pin in map(packaging.Requirement, LINES) if plain(pin.name) == plain(wanted.name)]
    assert pins
    for pin in pins:
        (only,) = pin.specifier
        assert wanted.specifier.contains(only.version), (str(pin), needed)


def test_what_the_requirements_require_is_pinned_too() -> None:
    waiting = {plain(packaging.Requirement(text).name) for text in DIRECT}
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        needs = [packaging.Requirement(text) for text in requires]
        here = {plain(need.name) for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})}
        waiting |= here - seen
    assert {name for name in seen if not BY_TORCH.match(name)} <= PINS
