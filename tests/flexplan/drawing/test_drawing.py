"""Drawings: text stays text, and a picture of many tasks stays small."""

from __future__ import annotations

from xml.etree import ElementTree

from flexplan.drawing import draw_lanes, element, html_table


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
