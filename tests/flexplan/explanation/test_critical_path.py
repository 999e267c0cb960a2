"""The critical path and the slack of lanes, on a graph small enough to draw by hand."""

from __future__ import annotations

import pytest

from flexplan.explanation import CriticalPath
from flexplan.explanation.critical_path import critical_path
from flexplan.graph import Access, Buffer, Sweep, Task, TaskGraph

# up    load 0 ---- load 1 ---- load 2          3 s each
#         \           \           \
# gpu      use 0       use 1       use 2        1 s each
# cpu   count                                   2 s
BUFFERS = {"ring": Buffer("ring", "gpu.work", (0, 100, 200), (100, 100, 100))}
LOADS = [Task("load", "up", 1, j, 0, writes=(Access("ring", j, 0, 100),)) for j in range(3)]
USES = [Task("use", "gpu", 1, j, 0, reads=(Access("ring", j, 0, 100),)) for j in range(3)]
COUNT = Task("count", "cpu", 1, 0, 0)
SECONDS = {
    **{task.name: 3.0 for task in LOADS},
    **{task.name: 1.0 for task in USES},
    COUNT.name: 2.0,
}
GRAPH = TaskGraph.of("drawn", 1, BUFFERS, [Sweep(1, (0,), [*LOADS, *USES, COUNT])])


@pytest.fixture(scope="module")
def found() -> CriticalPath:
    return critical_path(GRAPH, SECONDS, 3)


def test_the_path_is_all_loads_and_the_last_use(found: CriticalPath) -> None:
    assert found.path_s == pytest.approx({"up": 9, "gpu": 1})
    assert found.total_s == pytest.approx(10)


def test_a_lane_on_the_path_has_no_slack_and_one_beside_it_all_of_its_own(found: CriticalPath) -> None:
    assert found.slack_s == pytest.approx({"up": 0, "gpu": 0, "cpu": 8})


def test_a_task_off_the_path_has_slack_of_its_own(found: CriticalPath) -> None:
    """Use 0 may end as late as use 1 may begin, at 8 s: 4 s later; use 1 at 9 s, 2 s later; use 2 not at all."""
    assert found.task_slack_s == pytest.approx({"up": 0, "gpu": (4 + 2 + 0) / 3, "cpu": 8})


@pytest.mark.parametrize("lane", ["up", "gpu", "cpu"])
def test_the_pass_takes_longer_as_soon_as_a_lane_takes_more_than_its_slack(found: CriticalPath, lane: str) -> None:
    task = {"up": LOADS[1], "gpu": USES[2], "cpu": COUNT}[lane]
    slack = found.slack_s[lane]
    for more, longer in ((slack, 0.0), (slack + 0.5, 0.5)):
        slower = SECONDS | {task.name: SECONDS[task.name] + more}
        assert critical_path(GRAPH, slower, 3).total_s == pytest.approx(found.total_s + longer)


def test_percents_are_of_the_path(found: CriticalPath) -> None:
    assert found.percents("up") == pytest.approx((90, 0, 0))
    assert found.percents("cpu") == pytest.approx((0, 80, 80))
    assert found.to_dict()["lanes"]["gpu"] == pytest.approx(
        {"path_percent": 10, "slack_percent": 0, "task_slack_percent": 20}
    )
