"""Every pass of decoding finds its bytes where the pass before found them: a captured step can be replayed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace

import pytest
from flexplan_planners.schedules.rowwise import RowWise
from flexplan_planners.schedules.zigzag import ZigZag
from hypothesis import given, settings
from hypothesis import strategies as st

from flexplan.graph import CPU, GPU, INLINE, KINDS, Sweep, TaskGraph, check_graph
from flexplan.model import model_shape
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.testing import policy_with

SHAPES = [
    model_shape(name).model_copy(
        update={"hidden_size": 64, "embed_size": 64, "num_heads": 4, "num_kv_heads": 4, "head_dim": 16, "ffn_size": 64}
        | {"vocab_size": 64}
    )
    for name in ("facebook/opt-125m", "meta-llama/Llama-3.1-8B")  # with and without a table of positions
]
SCHEDULES = {"zigzag": ZigZag(), "rowwise": RowWise()}
GEN_LEN = 5


@st.composite
def percents(draw: st.DrawFn) -> tuple[float, float]:
    gpu = draw(st.sampled_from([0, 0, 30, 100]))
    return gpu, min(draw(st.sampled_from([0, 40, 100])), 100 - gpu)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    w, cache, act = (draw(percents()) for _ in range(3))
    block = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    switches = ("overlap", "sep_layer", "pin_weight", "cpu_cache_compute", "compress_weight")
    drawn = {name: draw(st.booleans()) for name in switches}
    policy = policy_with(*block, w=w, cache=cache, act=act, **drawn)
    return replace(policy, attn_sparsity=draw(st.sampled_from([1.0, 0.4])) if sum(cache) == 100 else 1.0)


def problem_of(shape: int, num_layers: int) -> Problem:
    model = SHAPES[shape].model_copy(update={"num_layers": num_layers})
    return Problem.of(model, prompt_len=3, gen_len=GEN_LEN)


def slots_met(graph: TaskGraph, sweep: Sweep) -> dict[Hashable, tuple[int, ...]]:
    """The slots of all that each gpu task of a pass reads and writes."""
    return {
        (t.kind, t.j, t.k): tuple(graph.buffers[a.buffer].slot(a.index) for a in (*t.reads, *t.writes))
        for t in sweep.tasks
        if t.lane in (GPU, INLINE) and KINDS[t.kind].lane == GPU
    }


def decoding(graph: TaskGraph) -> Iterator[tuple[Sweep, Sweep]]:
    """Each decoding pass and the next one by the same micro-batches."""
    last: dict[tuple[int, ...], Sweep] = {}
    for sweep in graph.sweeps():
        if sweep.i > 1:
            yield last[sweep.ks], sweep
        last[sweep.ks] = sweep


@settings(max_examples=300, deadline=None)
@given(policies(), st.sampled_from(sorted(SCHEDULES)), st.integers(0, 1), st.integers(1, 6))
def test_each_pass_meets_the_slots_of_the_one_before(p: Policy, schedule: str, shape: int, num_layers: int) -> None:
    graph = SCHEDULES[schedule].build(problem_of(shape, num_layers), p)
    pairs = list(decoding(graph))
    assert len(pairs) == (GEN_LEN - 2) * (p.num_gpu_batches if schedule == "rowwise" else 1)
    for before, after in pairs:
        assert slots_met(graph, before) == slots_met(graph, after)


@settings(max_examples=150, deadline=None)
@given(policies(), st.sampled_from(sorted(SCHEDULES)), st.integers(0, 1), st.integers(1, 6))
def test_whatever_the_number_of_layers_the_order_is_accepted(
    p: Policy, schedule: str, shape: int, num_layers: int
) -> None:
    """Over the end of a pass, weights are sent for no earlier than their slot allows."""
    problem = problem_of(shape, num_layers)
    check_graph(SCHEDULES[schedule].build(problem, p), problem.budgets())


HOSTED = {"cpu_cache_compute": True, "sep_layer": False}


@pytest.mark.parametrize("num_layers", [48, 47, 46])
@pytest.mark.parametrize("build", [ZigZag().build, RowWise().build])
def test_no_index_of_a_ring_comes_twice(build: Callable[[Problem, Policy], TaskGraph], num_layers: int) -> None:
    """Slots come back, indices do not: the checker tells by them what lies in a slot."""
    graph = build(problem_of(0, num_layers), policy_with(1, 3, w=(0, 100), cache=(0, 100), act=(0, 100), **HOSTED))
    rings = ("weight_ring", "hidden_decode", "attention", "queries", "fresh")
    written: dict[Hashable, set[tuple[int, ...]]] = {}
    for number, sweep in enumerate(graph.sweeps()):
        for t in sweep.tasks:
            for a in t.writes:
                if a.buffer in rings and t.kind != "load_weight":
                    written.setdefault((a.buffer, a.index), set()).add((number, t.j, t.k))
    assert written
    assert all(len(places) == 1 for places in written.values())


@pytest.mark.parametrize("num_layers", [48, 47, 46])
def test_as_many_steps_differ_as_a_pass_has(num_layers: int) -> None:
    graph = ZigZag().build(
        problem_of(0, num_layers), policy_with(1, 3, w=(0, 100), cache=(0, 100), act=(0, 100), **HOSTED)
    )
    sweeps = [sweep for sweep in graph.sweeps() if sweep.i]
    differing = {met for sweep in sweeps for met in slots_met(graph, sweep).items()}
    assert len(sweeps) == GEN_LEN - 1
    assert len(differing) == len(slots_met(graph, sweeps[0])) == 3 * (2 * num_layers + 2)


@pytest.mark.parametrize("num_layers", [1, 4])
def test_the_host_gathers_for_all_micro_batches_before_it_attends_for_one(num_layers: int) -> None:
    """One's rows would wait behind another's attention, once a micro-batch."""
    graph = ZigZag().build(
        problem_of(0, num_layers), policy_with(1, 4, w=(0, 100), cache=(0, 100), act=(100, 0), **HOSTED)
    )
    for sweep in graph.sweeps():
        kinds = [task.kind for task in sweep.tasks if task.lane == CPU]
        assert kinds == ["gather"] * 4 + ["attend"] * (4 * num_layers if sweep.i else 0)
