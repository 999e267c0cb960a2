"""The graph: text and JSON read back, edges follow from accesses, sweeps are written when asked for."""

from __future__ import annotations

from typing import Any

import networkx
import pytest
from flexplan_planners.schedules.rowwise import RowWise
from flexplan_planners.schedules.zigzag import ZigZag
from tiny import TINY

from flexplan.cost import Rates
from flexplan.errors import GraphError
from flexplan.graph import KINDS, LANES, Access, Buffer, Sweep, Task, TaskGraph, Work
from flexplan.graph.text import parse_name, parse_task
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.simulation import simulate_graph
from flexplan.testing import policy_with

PROBLEM = Problem.of(TINY, prompt_len=16, gen_len=4)
POLICIES = {
    "on the gpu": Policy(2, 2),
    "weights stream": policy_with(2, 2, w=(0, 50)),
    "cache streams": policy_with(2, 2, w=(100, 0), cache=(20, 50)),
    "host attention": policy_with(2, 3, w=(0, 100), cache=(0, 100), cpu_cache_compute=True),
    "activations move": policy_with(2, 2, w=(100, 0), cache=(100, 0), act=(30, 30)),
    "everything moves": policy_with(1, 3, w=(20, 40), cache=(20, 40), act=(20, 40), pin_weight=False, sep_layer=False),
    "nothing overlaps": policy_with(2, 2, w=(0, 50), cache=(0, 50), act=(0, 50), overlap=False),
}


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> Policy:
    return POLICIES[request.param]


@pytest.fixture(params=[ZigZag(), RowWise()], ids=["zigzag", "rowwise"])
def graph(request: pytest.FixtureRequest, policy: Policy) -> TaskGraph:
    built: TaskGraph = request.param.build(PROBLEM, policy)
    return built


def write(buffer: str, index: int, lane: str, lo: int = 0, hi: int = 10) -> Task:
    return Task("write", lane, 0, index, 0, writes=(Access(buffer, index, lo, hi),))


def read(buffer: str, index: int, lane: str, lo: int = 0, hi: int = 10) -> Task:
    return Task("read", lane, 0, index, 0, reads=(Access(buffer, index, lo, hi),))


def edges(*tasks: Task, slots: int = 2) -> list[tuple[int, ...]]:
    buffer = Buffer("ring", "gpu.work", tuple(range(0, 10 * slots, 10)), (10,) * slots)
    graph = TaskGraph.of("test", 1, {"ring": buffer}, [Sweep(0, (0,), tasks)])
    return [step.after for step in graph.nodes()]


# -- text -------------------------------------------------------------------------------------------------------
def test_text_reads_back(graph: TaskGraph) -> None:
    again = TaskGraph.from_text(graph.to_text())
    assert (again.schedule, again.live, again.buffers) == (graph.schedule, graph.live, dict(graph.buffers))
    assert list(again.tasks()) == list(graph.tasks())
    assert [(s.i, s.ks) for s in again.sweeps()] == [(s.i, s.ks) for s in graph.sweeps()]
    assert again.to_text() == graph.to_text()


def test_json_reads_back(graph: TaskGraph) -> None:
    again = TaskGraph.from_json(graph.to_json())
    assert (again.buffers, list(again.tasks())) == (dict(graph.buffers), list(graph.tasks()))


def test_names_read_back_and_are_unique(graph: TaskGraph) -> None:
    tasks = list(graph.tasks())
    assert [parse_name(task.name) for task in tasks] == [task[:6] for task in tasks]
    assert len({task.name for task in tasks}) == len(tasks)


def test_numbers_are_written_in_full() -> None:
    task = Task("compute", "gpu", 0, 1, 2, work=Work(gpu_flops=123456789.25, up_bytes=9876543210))
    assert parse_task(str(task)) == task


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "compute@gpu[i=0 j=1] work=none reads=- writes=-",
        "compute@gpu[i=0 j=1 k=0] work=none reads=-",
        "compute@gpu[i=0 j=1 k=0] work=warp:3 reads=- writes=-",
        "compute@gpu[i=0 j=1 k=0] work=gpu_flops:x reads=- writes=-",
        "compute@gpu[i=0 j=1 k=0] work=none reads=ring[0] writes=-",
        "buffer ring gpu.work 0-10",
        "sweep i=0",
        "sweep i=a ks=0",
        "schedule test live=many",
    ],
)
def test_a_bad_line_is_named(line: str) -> None:
    text = f"schedule test live=1\nsweep i=0 ks=0\n{line}\n"
    with pytest.raises(GraphError) as refusal:
        TaskGraph.from_text(text)
    assert refusal.value.code == "FP802"
    assert "line 3" in refusal.value.message
    assert repr(line) in refusal.value.message


def test_a_task_before_the_first_sweep_is_refused() -> None:
    with pytest.raises(GraphError, match="line 1"):
        TaskGraph.from_text("compute@gpu[i=0 j=0 k=0] work=none reads=- writes=-")


# -- the contract -----------------------------------------------------------------------------------------------
def test_the_schedules_keep_to_the_table_of_kinds(graph: TaskGraph, policy: Policy) -> None:
    for task in graph.tasks():
        kind = KINDS[task.kind]
        assert task.lane == (kind.lane if policy.overlap else "inline")
        assert task.lane in LANES
        for access in task.reads + task.writes:
            assert access.buffer in graph.buffers


def test_both_schedules_compute_the_same_steps(policy: Policy) -> None:
    computed = [
        sorted(t[2:5] for t in schedule.build(PROBLEM, policy).tasks() if t.kind == "compute")
        for schedule in (ZigZag(), RowWise())
    ]
    assert computed[0] == computed[1]


def test_sweeps_are_written_when_asked_for() -> None:
    written: list[int] = []

    def tasks(i: int) -> Any:
        written.append(i)
        yield read("ring", i, "gpu")

    sweeps = [Sweep(i, (0,), tasks(i)) for i in range(3)]
    assert written == []
    assert len(sweeps[1].tasks) == len(sweeps[1].tasks) == 1
    assert written == [1]


def test_a_block_that_has_finished_ends() -> None:
    graph = ZigZag().build(PROBLEM, POLICIES["weights stream"])
    left = iter([False] * 2 + [True] * 100)
    assert len(list(graph.sweeps(lambda k: next(left)))) == 1


# -- edges ------------------------------------------------------------------------------------------------------
def test_a_read_waits_for_the_write() -> None:
    assert edges(write("ring", 0, "up"), read("ring", 0, "gpu")) == [(), (0,)]


def test_a_slot_is_filled_again_when_its_reader_has_ended() -> None:
    """
    up   |0|1|  |2|
    gpu    |0 |
    """
    tasks = write("ring", 0, "up"), read("ring", 0, "gpu"), write("ring", 1, "up"), write("ring", 2, "up")
    assert edges(*tasks) == [(), (0,), (), (1,)]


def test_a_write_waits_for_a_write_that_nobody_read() -> None:
    assert edges(write("ring", 0, "up"), write("ring", 2, "down")) == [(), (0,)]


def test_the_order_of_a_lane_needs_no_edges() -> None:
    assert edges(write("ring", 0, "up"), read("ring", 0, "up"), write("ring", 2, "up")) == [(), (), ()]


def test_chunks_are_waited_for_by_who_reads_them_only() -> None:
    halves = write("ring", 0, "up", 0, 5), write("ring", 0, "disk", 5, 10)
    readers = read("ring", 0, "gpu", 0, 5), read("ring", 0, "gpu", 5, 10), read("ring", 0, "cpu")
    assert edges(*halves, *readers) == [(), (), (0,), (1,), (0, 1)]


def test_a_write_in_the_middle_leaves_the_rest() -> None:
    tasks = write("ring", 0, "up"), write("ring", 0, "disk", 4, 6), read("ring", 0, "gpu", 0, 2)
    assert edges(*tasks) == [(), (0,), (0,)]


def test_a_buffer_that_does_not_exist_is_named() -> None:
    with pytest.raises(GraphError) as refusal:
        edges(read("rung", 3, "gpu"))
    assert refusal.value.code == "FP803"
    assert "rung[3]" in refusal.value.message


def test_edges_point_back_and_to_other_lanes(graph: TaskGraph) -> None:
    steps = list(graph.nodes())
    assert [step.number for step in steps] == list(range(len(steps)))
    for step in steps:
        assert list(step.after) == sorted(set(step.after))
        for other in step.after:
            assert other < step.number
            assert steps[other].task.lane != step.task.lane


# -- analysis ---------------------------------------------------------------------------------------------------
def test_no_execution_is_faster_than_the_critical_path(graph: TaskGraph) -> None:
    rates, view = Rates(PROBLEM.hardware), graph.to_networkx()
    assert networkx.is_directed_acyclic_graph(view)
    solo = {}
    for name, task in view.nodes(data="task"):
        lane = KINDS[task.kind].lane if task.lane == "inline" else task.lane
        solo[name] = rates.price(task.work, lane).solo_s
    ends: dict[str, float] = {}
    for name in networkx.topological_sort(view):
        ends[name] = solo[name] + max((ends[before] for before in view.predecessors(name)), default=0.0)
    assert simulate_graph(graph, rates).end_s >= max(ends.values()) * (1 - 1e-9)
