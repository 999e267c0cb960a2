"""The simulator: lanes side by side, resources shared; graphs are drawn, times are in drawn columns."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from flexplan_planners.schedules.rowwise import RowWise
from flexplan_planners.schedules.zigzag import ZigZag
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TINY

from flexplan.cost import Price, Rates
from flexplan.errors import GraphError
from flexplan.graph import Access, Buffer, Sweep, Task, TaskGraph, Timeline, Work
from flexplan.hardware import DISK_REQUEST_BYTES, hardware_from
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.simulation import simulate_graph
from flexplan.simulation.simulator import share
from flexplan.simulation.sweeps import SweepProgram
from flexplan.simulation.sweeps import programs as programs_of
from flexplan.testing import policy_with

GB = 1e9
PROBLEM = Problem.of(TINY, prompt_len=16, gen_len=16)
# a machine in round numbers, without fixed times: 1 GB takes 1 s on any link, 1 Gflop 1 s on the gpu
ROUND = hardware_from().model_copy(
    update={
        "gpu_flops_per_s": GB,
        "gpu_bytes_per_s": GB,
        "link_up_bytes_per_s": GB,
        "link_down_bytes_per_s": GB,
        "link_duplex_bytes_per_s": 2 * GB,
        "host_bytes_per_s": 100 * GB,
        "host_attention_bytes_per_s": GB,
        "host_flops_per_s": 1e30,
        "disk_read_bytes_per_s": GB,
        "disk_write_bytes_per_s": GB,
        "pageable_up_bytes_per_s": GB,
        "kernel_s": 1e-12,
        "copy_s": 1e-12,
        "host_task_s": 1e-12,
        "disk_request_s": 1e-12,
    }
)


def up(index: int, seconds: float = 1, lane: str = "h2d_weights") -> Task:
    work = Work(up_bytes=seconds * GB, host_bytes=seconds * GB)
    return Task("load_weight", lane, 0, index, 0, work=work, writes=(Access("ring", index, 0, 1),))


def down(index: int, seconds: float = 1) -> Task:
    return Task("store_cache", "d2h", 0, index, 0, work=Work(down_bytes=seconds * GB, host_bytes=seconds * GB))


def compute(index: int, seconds: float = 1, lane: str = "gpu") -> Task:
    work = Work(gpu_flops=seconds * GB)
    return Task("compute", lane, 0, index, 0, work=work, reads=(Access("ring", index, 0, 1),))


def attend(seconds: float = 1) -> Task:
    return Task("attend", "cpu", 0, 0, 0, work=Work(attended_bytes=seconds * GB, host_bytes=seconds * GB))


def run(*tasks: Task, slots: int = 2, **rates: float) -> Timeline:
    ring = Buffer("ring", "gpu.work", tuple(range(slots)), (1,) * slots)
    graph = TaskGraph.of("drawn", 1, {"ring": ring}, [Sweep(0, (0,), tasks)])
    return simulate_graph(graph, Rates(ROUND.model_copy(update=rates)))


def starts(timeline: Timeline, lane: str) -> list[float]:
    return [pytest.approx(span.start_s) for span in timeline.spans if span.lane == lane]


# -- lanes ------------------------------------------------------------------------------------------------------
def test_the_next_layer_loads_while_this_one_computes() -> None:
    """
    up   |w0|w1|w2|
    gpu     |c0|c1|c2|
    """
    timeline = run(up(0), up(1), compute(0), up(2), compute(1), compute(2))
    assert timeline.end_s == pytest.approx(4)
    assert starts(timeline, "gpu") == [1, 2, 3]


def test_a_full_ring_waits_for_the_slowest_reader() -> None:
    """
    up   |w0|w1|  |w2|
    gpu     |  c0  |  c1  |  c2  |
    """
    timeline = run(up(0), up(1), compute(0, 2), up(2), compute(1, 2), compute(2, 2))
    assert starts(timeline, "h2d_weights") == [0, 1, 3]
    assert timeline.end_s == pytest.approx(7)


def test_with_one_slot_nothing_overlaps() -> None:
    """
    up   |w0|  |w1|
    gpu     |c0|  |c1|
    """
    assert run(up(0), compute(0), up(1), compute(1), slots=1).end_s == pytest.approx(4)


def test_a_slow_link_leaves_the_gpu_waiting() -> None:
    """
    up   |  w0  |  w1  |
    gpu         |c0|   |c1|
    """
    timeline = run(up(0, 2), up(1, 2), compute(0), compute(1))
    assert starts(timeline, "gpu") == [2, 4]
    assert timeline.busiest_lane() == "h2d_weights"


def test_inline_is_the_sum() -> None:
    tasks = [task._replace(lane="inline") for task in (up(0), compute(0), up(1), compute(1), attend(), down(0))]
    assert run(*tasks).end_s == pytest.approx(6)


def test_an_inline_task_pays_the_fixed_time_of_its_own_lane() -> None:
    assert run(compute(0)._replace(lane="inline", reads=()), kernel_s=5.0).end_s == pytest.approx(6)


# -- shared resources -------------------------------------------------------------------------------------------
def test_a_read_is_never_quicker_than_one_of_its_requests() -> None:
    def seconds(nbytes: float) -> float:
        read = Task("read_cache", "disk_read", 0, 0, 0, work=Work(read_bytes=nbytes))
        return run(read, disk_one_read_bytes_per_s=GB / 4).end_s

    assert seconds(DISK_REQUEST_BYTES / 2) == pytest.approx(DISK_REQUEST_BYTES / 2 / (GB / 4))
    assert seconds(2 * DISK_REQUEST_BYTES) == pytest.approx(DISK_REQUEST_BYTES / (GB / 4))
    assert seconds(GB) == pytest.approx(1)


def test_two_ways_at_once_share_the_link() -> None:
    """55 up and 55 down through a link that moves 94 in all: each gets 47."""
    rates = {"link_up_bytes_per_s": 55 * GB, "link_down_bytes_per_s": 55 * GB, "link_duplex_bytes_per_s": 94 * GB}
    assert run(up(0, 55), **rates).end_s == pytest.approx(1)
    assert run(up(0, 55), down(0, 55), **rates).end_s == pytest.approx(55 / 47)


def test_when_one_way_ends_the_other_goes_at_full_speed() -> None:
    """
    up   |  47  |
    down |  47  | 55  |
    """
    rates = {"link_up_bytes_per_s": 55 * GB, "link_down_bytes_per_s": 55 * GB, "link_duplex_bytes_per_s": 94 * GB}
    assert run(up(0, 47), down(0, 102), **rates).end_s == pytest.approx(2)


def test_host_attention_gets_what_the_copies_leave() -> None:
    """Host memory moves 115: the copy takes its 55, attention the other 60 of the 100 it could use."""
    rates = {"link_up_bytes_per_s": 55 * GB, "link_duplex_bytes_per_s": 94 * GB, "host_bytes_per_s": 115 * GB}
    rates["host_attention_bytes_per_s"] = 100 * GB
    assert run(attend(60), **rates).end_s == pytest.approx(0.6)
    assert run(up(0, 55), attend(60), **rates).end_s == pytest.approx(1)


def test_copies_on_two_lanes_share_one_direction() -> None:
    assert run(up(0), up(1, lane="h2d_small")).end_s == pytest.approx(2)


def test_who_wants_little_gets_it() -> None:
    """Max-min: a task that needs a tenth of the link keeps its speed beside one that could use all of it."""
    small = Price(1.0, (("link", 0.1),))
    large = Price(1.0, (("link", 1.0),))
    assert share([small, large]) == pytest.approx([1.0, 0.9])
    assert share([large, large]) == pytest.approx([0.5, 0.5])


def test_what_a_fixed_time_leaves_unused_is_not_given_back() -> None:
    """0.2 s of fixed time, then 0.8 s at all of the memory, of which copies that want 0.3 leave 0.7."""
    attention, copies = Price(1.0, (("host", 0.8),), 0.2), Price(1.0, (("host", 0.3),))
    assert share([attention, copies]) == pytest.approx([1 / (0.2 + 0.8 / 0.7), 1.0])
    assert share([attention]) == pytest.approx([1.0])


def _priced(solo: float, fixed: float, needs: dict[str, float]) -> Price:
    return Price(solo, tuple((name, share_ * solo * (1 - fixed)) for name, share_ in needs.items()), solo * fixed)


prices = st.builds(
    _priced,
    st.floats(1e-3, 1e3),
    st.floats(0, 0.9),
    st.dictionaries(st.sampled_from(["link", "host", "gpu"]), st.floats(0.01, 1)),
)


@given(st.lists(prices, min_size=1, max_size=6))
def test_no_resource_gives_more_than_it_has_and_nobody_is_faster_than_alone(tasks: list[Price]) -> None:
    speeds = share(tasks)
    used: dict[str, float] = {}
    for task, speed in zip(tasks, speeds, strict=True):
        assert 0 < speed <= 1 / task.solo_s * (1 + 1e-9)
        for name, seconds in task.demands:
            used[name] = used.get(name, 0.0) + seconds * speed
    assert all(total <= 1 + 1e-6 for total in used.values())


# -- what it adds up to -----------------------------------------------------------------------------------------
POLICIES = [
    policy_with(2, 2, w=(0, 50), cache=(20, 50), act=(30, 30)),
    policy_with(2, 3, w=(0, 100), cache=(0, 100), cpu_cache_compute=True, sep_layer=False),
    policy_with(1, 3, w=(0, 50), cache=(90, 0), act=(0, 100), cpu_cache_compute=True, pin_weight=False),
    policy_with(2, 2, w=(0, 50), cache=(0, 50), act=(0, 50), overlap=False),
]
both = pytest.mark.parametrize("schedule", [ZigZag(), RowWise()], ids=["zigzag", "rowwise"])
every = pytest.mark.parametrize("policy", POLICIES)


@both
@every
def test_it_is_deterministic_and_every_task_runs_once(schedule: Any, policy: Policy) -> None:
    graph, rates = schedule.build(PROBLEM, policy), Rates(PROBLEM.hardware)
    one, two = simulate_graph(graph, rates), simulate_graph(graph, rates)
    assert one == two
    assert sorted(span.name for span in one.spans) == sorted(task.name for task in graph.tasks())
    assert one.num_tasks == len(one.spans)


@both
@every
def test_lanes_keep_their_order_and_run_one_task_at_a_time(schedule: Any, policy: Policy) -> None:
    graph = schedule.build(PROBLEM, policy)
    timeline = simulate_graph(graph, Rates(PROBLEM.hardware))
    for lane, names in timeline.lane_order().items():
        assert names == [task.name for task in graph.tasks() if task.lane == lane]
        spans = [span for span in timeline.spans if span.lane == lane]
        assert all(b.start_s >= a.end_s - 1e-12 for a, b in pairwise(spans))
        assert timeline.lane_busy_s[lane] == pytest.approx(sum(span.end_s - span.start_s for span in spans))


@both
@every
def test_nothing_starts_before_what_it_waits_for_has_ended(schedule: Any, policy: Policy) -> None:
    graph = schedule.build(PROBLEM, policy)
    span = {s.name: s for s in simulate_graph(graph, Rates(PROBLEM.hardware)).spans}
    steps = list(graph.nodes())
    for step in steps:
        for other in step.after:
            assert span[step.task.name].start_s >= span[steps[other].task.name].end_s


# -- a pattern is derived once ------------------------------------------------------------------------------------
@st.composite
def shares(draw: st.DrawFn) -> tuple[int, int]:
    gpu = draw(st.sampled_from([0, 0, 25, 50, 90, 100]))
    return gpu, min(draw(st.sampled_from([0, 30, 50, 100])), 100 - gpu)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(shares(), shares(), shares()),
    st.tuples(*[st.booleans()] * 4),
    st.sampled_from([1.0, 0.1, 0.5]),
    st.booleans(),
)
def test_a_repeated_pattern_is_timed_as_if_every_task_were_built(
    block: tuple[int, int],
    percents: tuple[tuple[int, int], ...],
    switches: tuple[bool, ...],
    sparsity: float,
    row_by_row: bool,
) -> None:
    overlap, sep_layer, pin_weight, hosted = switches
    w, cache, act = percents
    policy = policy_with(
        *block,
        w=w,
        cache=cache,
        act=act,
        overlap=overlap,
        sep_layer=sep_layer,
        pin_weight=pin_weight,
        cpu_cache_compute=hosted,
        attn_sparsity=sparsity if sum(cache) == 100 else 1.0,
    )
    graph, rates = (RowWise() if row_by_row else ZigZag()).build(PROBLEM, policy), Rates(PROBLEM.hardware)
    whole, short = simulate_graph(graph, rates, keep=True), simulate_graph(graph, rates, keep=False)
    assert short.spans == []
    assert (short.num_tasks, short.end_s) == (whole.num_tasks, pytest.approx(whole.end_s))
    assert short.sweep_end_s == pytest.approx(whole.sweep_end_s)
    assert short.lane_busy_s == pytest.approx(whole.lane_busy_s)
    assert short.resource_busy_s == pytest.approx(whole.resource_busy_s)


def derived_and_repeated(graph: TaskGraph) -> tuple[int, int]:
    found: list[SweepProgram] = list(programs_of(graph.buffers, graph.sweeps(), Rates(PROBLEM.hardware)))
    derived = {id(program.lanes) for program in found}
    return len(derived), len(found) - len(derived)


def test_a_long_decode_is_mostly_repeated() -> None:
    derived, repeated = derived_and_repeated(ZigZag().build(PROBLEM, POLICIES[1]))
    assert derived <= 7
    assert derived + repeated == 16


@pytest.mark.parametrize("lie", ["work", "order"])
def test_a_pattern_that_does_not_repeat_is_derived(lie: str) -> None:
    """A promise that the sweeps do not keep costs time, never truth."""

    def sweeps() -> Iterator[Sweep]:
        for i in range(10):
            tasks = [up(i, i * i if lie == "work" else 1), compute(i)]
            if lie == "order" and i % 2:
                tasks.append(down(i))
            yield Sweep(i, (0,), tasks, pattern="alike")

    ring = Buffer("ring", "gpu.work", (0, 1), (1, 1))
    graph = TaskGraph("lies", 1, {"ring": ring}, lambda finished: sweeps())
    assert derived_and_repeated(graph) == (10, 0)
    rates = Rates(ROUND)
    assert simulate_graph(graph, rates, keep=False).end_s == pytest.approx(simulate_graph(graph, rates).end_s)


_LONG = """
import resource
from flexplan.cost import Rates
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.simulation import simulate_graph
from flexplan_planners.schedules.zigzag import ZigZag

for gen_len in (20, 100):
    problem = Problem.of("facebook/opt-30b", prompt_len=512, gen_len=gen_len, disk_mem="1500G")
    policy = Policy(32, 3, 0, 50, 0, 0, 0, 100, sep_layer=False, cpu_cache_compute=True)
    timeline = simulate_graph(ZigZag().build(problem, policy), Rates(problem.hardware), keep=False)
    print(timeline.num_tasks, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_job() -> None:
    """Five times the tokens in the same process; benchmarks/simulates_a_thousand_tokens.py does the full size."""
    found = subprocess.run([sys.executable, "-c", _LONG], capture_output=True, text=True, check=True, timeout=120)
    (few, short), (many, long) = (map(int, line.split()) for line in found.stdout.splitlines())
    assert many > 4.5 * few
    assert long - short < 10


def test_a_graph_without_tasks_takes_no_time() -> None:
    assert simulate_graph(TaskGraph.of("empty", 1, {}, []), Rates(ROUND)).end_s == 0


def test_a_buffer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(GraphError, match="no such buffer"):
        simulate_graph(TaskGraph.of("bad", 1, {}, [Sweep(0, (0,), (up(0),))]), Rates(ROUND))
