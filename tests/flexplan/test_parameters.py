"""What becomes of each parameter that people bring, and the page that says so.

``FLEXPLAN_WRITE_DOCS=1`` writes `docs/parameters.md` anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flexplan.parameters import CHAT, COMPLETIONS, GENERATION, REFUSED, Parameter, as_page, asked

PAGE = Path(__file__).parents[2] / "docs" / "parameters.md"


def test_the_page_is_what_the_code_does() -> None:
    if os.environ.get("FLEXPLAN_WRITE_DOCS"):
        PAGE.write_text(as_page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == as_page()


def test_every_attribute_of_transformers_generation_config_has_a_verdict() -> None:
    transformers = pytest.importorskip("transformers")
    assert set(vars(transformers.GenerationConfig())) <= set(GENERATION)


@pytest.mark.parametrize("table", [GENERATION, COMPLETIONS, CHAT], ids=["generation", "completions", "chat"])
def test_nothing_is_asked_by_null(table: dict[str, Parameter]) -> None:
    assert not asked(dict.fromkeys(table), table, {p.verdict for p in table.values()})


def test_a_value_that_changes_nothing_is_not_refused_and_one_that_does_is() -> None:
    assert not asked({"num_beams": 1, "n": 2}, GENERATION, {REFUSED})
    assert set(asked({"num_beams": 4, "top_k": 3}, GENERATION, {REFUSED})) == {"num_beams"}
    assert set(asked({"n": 1, "best_of": 5, "echo": False}, COMPLETIONS, {REFUSED})) == {"best_of"}


def test_true_is_not_one() -> None:
    assert set(asked({"num_beams": True}, GENERATION, {REFUSED})) == {"num_beams"}
