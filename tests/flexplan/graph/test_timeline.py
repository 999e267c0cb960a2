"""The timeline: sums, order, and the trace that Chrome and Perfetto read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flexplan.graph import Span, Timeline


@pytest.fixture
def timeline() -> Timeline:
    """
    up   |w0|w1|
    gpu     | c0 |
    """
    made = Timeline(peak_bytes={"gpu": 7})
    for span in (
        Span("w0", "h2d_weights", 0, 0.0, 1.0),
        Span("w1", "h2d_weights", 1, 1.0, 2.0),
        Span("c0", "gpu", 0, 1.0, 2.5),
    ):
        made.add(span)
    return made


def trace_of(timeline: Timeline, path: Path, *others: tuple[str, Timeline]) -> list[dict[str, object]]:
    timeline.to_chrome_trace(path, *others)
    events: list[dict[str, object]] = json.loads(path.read_text())["traceEvents"]
    return events


def test_it_adds_up(timeline: Timeline) -> None:
    assert timeline.end_s == 2.5
    assert timeline.num_tasks == 3
    assert timeline.lane_busy_s == {"h2d_weights": 2.0, "gpu": 1.5}
    assert timeline.busiest_lane() == "h2d_weights"


def test_prefill_ends_with_the_first_pass(timeline: Timeline) -> None:
    assert (timeline.prefill_s, timeline.decode_s) == (2.5, 0.0)
    timeline.add(Span("c1", "gpu", 1, 2.5, 3.5))
    assert (timeline.prefill_s, timeline.decode_s) == (2.5, 1.0)


def test_the_order_of_a_lane_is_that_of_its_starts(timeline: Timeline) -> None:
    assert timeline.lane_order() == {"h2d_weights": ["w0", "w1"], "gpu": ["c0"]}


def test_an_empty_timeline_has_no_busiest_lane() -> None:
    assert (Timeline().busiest_lane(), Timeline().end_s, Timeline().prefill_s) == ("", 0.0, 0.0)


def test_a_span_that_is_not_kept_still_counts() -> None:
    timeline = Timeline()
    timeline.add(Span("", "gpu", 0, 0.0, 1.0), keep=False)
    assert (timeline.spans, timeline.num_tasks, timeline.end_s) == ([], 1, 1.0)


def test_tasks_are_complete_events_in_microseconds(timeline: Timeline, tmp_path: Path) -> None:
    events = [e for e in trace_of(timeline, tmp_path / "t.json") if e["ph"] == "X"]
    assert [(e["name"], e["ts"], e["dur"]) for e in events] == [("w0", 0, 1e6), ("w1", 1e6, 1e6), ("c0", 1e6, 1.5e6)]


def test_every_event_has_what_the_trace_format_asks_for(timeline: Timeline, tmp_path: Path) -> None:
    for event in trace_of(timeline, tmp_path / "t.json", ("measured", timeline)):
        assert {"ph", "pid", "tid", "name"} <= event.keys()
        assert event["ph"] in {"M", "X", "C"}
        assert event["ph"] == "M" or event["ts"] >= 0  # type: ignore[operator]


def test_lanes_are_named_threads_in_the_order_of_the_lanes(timeline: Timeline, tmp_path: Path) -> None:
    events = trace_of(timeline, tmp_path / "t.json")
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}  # type: ignore[index]
    assert list(names.values()) == ["gpu", "h2d_weights"]
    assert {e["tid"] for e in events if e["ph"] == "X"} == set(names)


def test_predicted_and_measured_lie_side_by_side(timeline: Timeline, tmp_path: Path) -> None:
    events = trace_of(timeline, tmp_path / "t.json", ("measured", timeline))
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}  # type: ignore[index]
    assert processes == {1: "predicted", 2: "measured"}
    assert len({(e["pid"], e["tid"]) for e in events if e["ph"] == "X"}) == 4


def test_bytes_by_tier_are_counters(timeline: Timeline, tmp_path: Path) -> None:
    counters = [e for e in trace_of(timeline, tmp_path / "t.json") if e["ph"] == "C"]
    assert [(e["name"], e["args"]) for e in counters] == [("gpu bytes", {"planned": 7})]
