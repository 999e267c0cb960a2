"""One pass lane by lane: idle time has a cause, the whole way back, on a graph small enough to draw by hand."""

from __future__ import annotations

import pytest

from flexplan.explanation import view
from flexplan.explanation.one_pass import around
from flexplan.graph import Access, Buffer, Span, Sweep, Task, TaskGraph

# cpu   attend ----.                    0 .. 6
# up                copy --.            6 .. 7     behind attend
# gpu   project             compute     0 .. 1, 8 .. 9   behind copy, begun 1 s later than it could
BUFFERS = {name: Buffer(name, "host.work", (0,), (10,)) for name in ("host", "device")}
PROJECT = Task("project", "gpu", 1, 0, 0)
ATTEND = Task("attend", "cpu", 1, 0, 0, writes=(Access("host", 0, 0, 10),))
COPY = Task("copy", "up", 1, 0, 0, reads=(Access("host", 0, 0, 10),), writes=(Access("device", 0, 0, 10),))
COMPUTE = Task("compute", "gpu", 1, 0, 0, reads=(Access("device", 0, 0, 10),))
FIRST = Task("compute", "gpu", 0, 0, 0)
GRAPH = TaskGraph.of("drawn", 1, BUFFERS, [Sweep(0, (0,), [FIRST]), Sweep(1, (0,), [PROJECT, ATTEND, COPY, COMPUTE])])
TIMES = {FIRST: (0, 2), PROJECT: (2, 3), ATTEND: (2, 8), COPY: (8, 9), COMPUTE: (10, 11)}
SPANS = [Span(task.name, task.lane, task.i, start, end) for task, (start, end) in TIMES.items()]


def test_a_lane_that_waits_for_a_copy_of_what_is_not_yet_computed_waits_for_who_computes_it() -> None:
    surroundings = around(GRAPH, 1)
    assert surroundings is not None
    found = view(surroundings, SPANS)
    assert found is not None and found.took_s == 9  # from the end of the pass before
    assert found.idle_s()["gpu"] == pytest.approx({"cpu": 5, "up": 1, "": 1})
    assert found.idle_s()["up"] == pytest.approx({"cpu": 6})
    busy = {span.name: span.end_s - span.start_s for span in found.spans if span.lane == "gpu"}
    assert sum(busy.values()) + sum(found.idle_s()["gpu"].values()) == pytest.approx(found.took_s)


def test_a_pass_that_was_not_recorded_whole_is_not_shown() -> None:
    surroundings = around(GRAPH, 1)
    assert surroundings is not None and view(surroundings, SPANS[:-1]) is None
    assert around(GRAPH, 2) is None
