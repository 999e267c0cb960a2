"""Drawings: text stays text, and a picture of many tasks stays small."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from flexplan.drawing import draw_lanes, draw_tiers, element, html_table


def test_text_stays_text_and_numbers_stand_to_the_right() -> None:
    assert element("b", "<i>", title='"') == '<b title="&quot;">&lt;i&gt;</b>'
    table = html_table(("what", "much"), [["25 % faster link", "+1.0 %"], ["4 GiB", "-"]])
    assert table.count('class="number"') == 3  # the head of the second column, and its cells


def test_tasks_too_short_to_be_told_apart_share_a_bar() -> None:
    bars = [(f"task {n}", "gpu", n / 1e4, (n + 0.9) / 1e4) for n in range(10_000)]
    picture = draw_lanes([*bars, ("alone", "cpu", 0.5, 0.6)], ["gpu", "cpu"], 1.0, "a < b")
    found = ElementTree.fromstring(picture.svg)
    rects = [one for one in found.iter() if one.tag.endswith("rect")]
    assert 2 <= len(rects) < 2_000
    titles = [one.text for one in found.iter() if one.tag.endswith("title")]
    assert titles[0] == "a < b" and "alone: 100 ms" in titles


@pytest.mark.parametrize(
    ("num_layers", "parts", "numbered"),
    [(4, 1, {1: "0", 2: "1", 3: "2", 4: "3"}), (24, 2, {1: "0", 21: "10", 41: "20"})],
)
def test_a_map_of_layers_has_their_own_numbers(num_layers: int, parts: int, numbered: dict[int, str]) -> None:
    """Not those of columns: before the first layer stands the embedding, and a layer may have two."""
    roles = ["attention", "mlp"][:parts]
    names = ["embed", *(f"{role} {n}" for n in range(num_layers) for role in roles), "head"]
    found = draw_tiers([("weights", [(name, (1, 1, 0)) for name in names])], "map").svg
    rows = re.findall(r'<rect x="([\d.]+)" y="2.0" width="([\d.]+)"', found)
    centres = [float(x) + (float(wide) + 0.6) / 2 for x, wide in rows]
    told = re.findall(r'<text x="([\d.]+)"[^>]*middle[^>]*>(\d+)<', found)
    assert [text for _, text in told] == list(numbered.values())
    assert [float(x) for x, _ in told] == pytest.approx([centres[at] for at in numbered], abs=0.1)
