"""docs/models.md lists every family with the models that are known by name."""

from __future__ import annotations

import os
from pathlib import Path

from flexplan.model import model_shape, weight_bytes
from flexplan.model.catalog import model_names
from flexplan.model.config import FAMILIES

PAGE = Path(__file__).parents[3] / "docs" / "models.md"


def table() -> str:
    """A row a family: how many models are known by name, and the largest of them in 16 bits."""
    shapes = [model_shape(name).with_dtype(2) for name in model_names()]
    rows = []
    for family in FAMILIES:
        ours = sorted((weight_bytes(s), s.name) for s in shapes if s.family == family)
        rows.append(f"| `{family}` | {len(ours)} | {ours[-1][1]} | {ours[-1][0] / 1e9:.1f} GB |")
    return "\n".join(["| family | known by name | the largest | its weights, 16 bits |", "|---|---|---|---|", *rows])


def test_the_page_lists_the_families() -> None:
    head, _, rest = PAGE.read_text().partition("<!-- families -->\n")
    _, mark, tail = rest.partition("<!-- end of families -->")
    wanted = f"{head}<!-- families -->\n{table()}\n{mark}{tail}"
    if os.environ.get("FLEXPLAN_WRITE_DOCS"):
        PAGE.write_text(wanted)
    assert PAGE.read_text() == wanted, "write it anew: FLEXPLAN_WRITE_DOCS=1 pytest tests/flexplan/model"
