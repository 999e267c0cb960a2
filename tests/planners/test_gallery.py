"""The gallery of plans is what `solve` says: a sample of it, planned again."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
ROWS = [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in PAGE.splitlines() if line.startswith("|")][2:]


@pytest.fixture(scope="module")
def gallery() -> dict[str, Any]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return runpy.run_path(str(ROOT / "benchmarks" / "gallery.py"))
    finally:
        sys.path.pop(0)


@pytest.mark.parametrize(("model", "machine"), [(0, 3), (1, 2)])
def test_a_sample_of_the_gallery_is_current(model: int, machine: int, gallery: dict[str, Any]) -> None:
    name, where = gallery["MODELS"][model], gallery["MACHINES"][machine]
    made = gallery["row"](name, where)
    (kept,) = (row for row in ROWS if row[:2] == made[:2])
    assert float(kept[2].replace(",", "")) == pytest.approx(float(made[2].replace(",", "")), rel=0.03), (
        "write it anew: python benchmarks/gallery.py --write docs/gallery.md"
    )


def test_every_model_stands_on_every_machine(gallery: dict[str, Any]) -> None:
    wanted = {(model.rpartition("/")[2], machine) for model in gallery["MODELS"] for machine in gallery["MACHINES"]}
    assert {row[:2] for row in ROWS} == wanted and len(ROWS) == 25
