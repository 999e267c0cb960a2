"""The proof accepts what the built-in schedules write, and nothing that computes anything else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from flexplan_planners.schedules.rowwise import RowWise
from flexplan_planners.schedules.zigzag import ZigZag
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import Mutated

from flexplan.errors import GraphError
from flexplan.graph import KINDS, Finished, Sweep, Task, TaskGraph
from flexplan.model import ModelShape
from flexplan.policy import Policy, fill_blocks
from flexplan.problem import Problem
from flexplan.proof import Proof, named_lines, prove, proved
from flexplan.proof.repeats import Repeats
from flexplan.schedule import Schedule, placement_of
from flexplan.testing import policy_with, small_shape

EXAMPLES = int(os.environ.get("FLEXPLAN_PROOFS", "150"))
SHAPE = small_shape().model_copy(update={"num_layers": 2, "hidden_size": 64, "ffn_size": 96, "head_dim": 16})
MIXTURE = SHAPE.model_copy(update={"num_experts": 4, "experts_per_token": 2, "expert_ffn_size": 32})
SCHEDULES: dict[str, Schedule] = {"zigzag": ZigZag(), "rowwise": RowWise()}
HALVES = {"w": (30, 40), "cache": (25, 50), "act": (20, 40)}


def problem(
    prompt_lens: tuple[int, ...], gen_len: int, windows: tuple[int, ...] = (), shape: ModelShape = SHAPE
) -> Problem:
    shape = shape.model_copy(update={"windows": windows})
    return Problem.of(shape, gpu_mem="1G", cpu_mem="1G", disk_mem="1G", prompt_lens=prompt_lens, gen_len=gen_len)


@st.composite
def shares(draw: st.DrawFn) -> tuple[float, float]:
    gpu = draw(st.sampled_from([0, 0, 25, 50, 90, 100]))
    return gpu, min(draw(st.sampled_from([0, 30, 50, 100])), 100 - gpu)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    cache, hosts = draw(shares()), draw(st.booleans())
    special = draw(st.sampled_from(["none", "none", "sparse", "shared"]))
    switches = {name: draw(st.booleans()) for name in ("overlap", "sep_layer", "pin_weight")}
    switches |= {name: draw(st.sampled_from([False, False, True])) for name in ("compress_weight", "compress_cache")}
    return policy_with(
        draw(st.integers(1, 3)),
        draw(st.integers(1, 4)),
        w=draw(shares()),
        cache=cache,
        act=draw(shares()),
        cpu_cache_compute=hosts,
        cache_stream_percent=50 if hosts and special == "shared" else 0,
        attn_sparsity=0.4 if sum(cache) == 100 and special == "sparse" else 1.0,
        **switches,
    )


def placed(schedule: Schedule, given: Problem, policy: Policy) -> tuple[TaskGraph, Any]:
    graph = schedule.build(given, policy)
    return graph, placement_of(graph, given.model, policy, next(fill_blocks(given.workload, policy)))


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    policies(),
    st.sampled_from(sorted(SCHEDULES)),
    st.lists(st.integers(1, 5), min_size=1, max_size=9),
    st.integers(1, 9),
    st.sampled_from([(), (), (3, 0), (2, 4)]),
)
def test_every_graph_of_the_built_in_schedules_is_accepted(
    policy: Policy, schedule: str, prompt_lens: list[int], gen_len: int, windows: tuple[int, ...]
) -> None:
    prove(*placed(SCHEDULES[schedule], problem(tuple(prompt_lens), gen_len, windows), policy))


@settings(max_examples=EXAMPLES // 3, deadline=None)
@given(policies(), st.sampled_from(sorted(SCHEDULES)), st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_so_is_every_graph_with_experts_on_demand(policy: Policy, schedule: str, prompt_lens: list[int]) -> None:
    on_demand = replace(policy, num_gpu_batches=1, sep_layer=True, pin_weight=True, experts_on_demand=True)
    prove(*placed(SCHEDULES[schedule], problem(tuple(prompt_lens), 6, shape=MIXTURE), on_demand))


# -- what is refused -----------------------------------------------------------------------------------------------
def changed(graph: TaskGraph, change: Callable[[list[Task]], list[Task]], at: int = 1) -> TaskGraph:
    """The graph with the tasks of one sweep changed."""

    def make(finished: Finished) -> Iterator[Sweep]:
        for n, sweep in enumerate(graph.sweeps(finished)):
            yield Sweep(sweep.i, sweep.ks, change(list(sweep.tasks)) if n == at else sweep.tasks)

    return replace(graph, make=make)


def without(kind: str) -> Callable[[list[Task]], list[Task]]:
    """The first task of a kind is left out."""

    def change(tasks: list[Task]) -> list[Task]:
        tasks.remove(next(task for task in tasks if task.kind == kind))
        return tasks

    return change


def with_first(first: str, /, **fields: Any) -> Callable[[list[Task]], list[Task]]:
    """The first task of a kind has other fields."""

    def change(tasks: list[Task]) -> list[Task]:
        at = next(n for n, task in enumerate(tasks) if task.kind == first)
        tasks[at] = tasks[at]._replace(**fields)
        return tasks

    return change


@pytest.mark.parametrize(
    ("hosts", "change", "code", "says"),
    [
        (False, without("compute"), "FP828", "needs hidden(i=1 j=0 k=0)"),
        (False, lambda tasks: tasks[:9] + tasks, "FP822", "the next step of micro-batch 0 is token 1, layer 1"),
        (False, without("load_weight"), "FP828", "needs host weights(j="),
        (False, without("store_hidden"), "FP828", "needs hidden(i=1 j=0 k=0)"),
        (False, without("store_ids"), "FP821", "token 1 of micro-batch 0 is never stored"),
        (False, without("read_cache"), "FP828", "needs disk cache(j=0 k=0)"),
        (True, without("store_cache"), "FP828", "needs cpu cache(i=1 j=0 k=0)"),
        (True, without("project"), "FP828", "needs queries(i=1 j=0 k=0)"),
        (True, without("load_attention"), "FP828", "needs attention(i=1 j=0 k=0)"),
        (False, lambda tasks: [], "FP820", "layer 0 of micro-batch 0 is never computed"),
        (False, with_first("compute", kind="frobnicate"), "FP823", "is of no known kind"),
        (False, with_first("compute", lane="d2h"), "FP824", "is on lane 'd2h', must be on gpu"),
        (False, with_first("load_hidden", k=7), "FP825", "is not at a place"),
        (False, with_first("compute", reads=()), "FP827", "must have reads="),
        (False, with_first("load_cache", kind="attend"), "FP824", "must be on cpu"),
    ],
)
def test_a_refusal_says_what_is_missing(
    hosts: bool, change: Callable[[list[Task]], list[Task]], code: str, says: str
) -> None:
    graph, placement = placed(
        SCHEDULES["zigzag"], problem((3,) * 4, 4), policy_with(2, 2, **HALVES, cpu_cache_compute=hosts)
    )
    with pytest.raises(GraphError) as refusal:
        prove(changed(graph, change), placement)
    assert refusal.value.code == code
    assert says in refusal.value.message


def early(kind: str, before: str) -> Callable[[list[Task]], list[Task]]:
    """The last task of a kind is done before the last one of another."""

    def change(tasks: list[Task]) -> list[Task]:
        last = {task.kind: n for n, task in enumerate(tasks)}
        tasks.insert(last[before], tasks.pop(last[kind]))
        return tasks

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without("load_experts"), "needs chosen experts(i=2 j=2 k=0)"),
        (without("send_routes"), "needs routes(i=2 j=2 k=0)"),
        (without("route"), "needs routes(i=2 j=2 k=0)"),
        (early("load_experts", "send_routes"), "needs routes(i=2 j=4 k=0)"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_experts_that_were_not_chosen_for_these_tokens_are_refused(
    change: Callable[[list[Task]], list[Task]], says: str, packed: bool
) -> None:
    policy = policy_with(2, 1, w=(0, 100), sep_layer=True, experts_on_demand=True, compress_weight=packed)
    graph, placement = placed(SCHEDULES["zigzag"], problem((3,) * 2, 4, shape=MIXTURE), policy)
    prove(graph, placement)
    with pytest.raises(GraphError, match="FP828") as refusal:
        prove(changed(graph, change, at=2), placement)
    assert says in refusal.value.message


@pytest.mark.parametrize("work", [float("nan"), float("inf"), -1.0, "much"])
def test_work_that_cannot_be_counted_is_refused(work: Any) -> None:
    graph, placement = placed(SCHEDULES["zigzag"], problem((3,) * 4, 4), policy_with(2, 2))
    task = next(iter(graph.tasks()))
    with pytest.raises(GraphError, match="FP826"):
        prove(changed(graph, with_first(task.kind, work=task.work._replace(gpu_flops=work)), at=0), placement)


def test_a_micro_batch_may_end_when_its_rows_have_stopped_and_not_before() -> None:
    graph, placement = placed(SCHEDULES["zigzag"], problem((3,) * 4, 4), policy_with(2, 2, **HALVES))
    asked = 0

    def finished(k: int) -> bool:
        nonlocal asked
        asked += 1
        return k == 1 and asked > 5

    assert [sweep.ks for sweep in proved(graph, placement).sweeps(finished)] == [(0, 1), (0, 1), (0,), (0,)]
    shorter = replace(graph, make=lambda finished: list(graph.sweeps(finished))[:-1])
    with pytest.raises(GraphError, match="ends after 3 of 4 tokens"):
        prove(shorter, placement)


@pytest.mark.parametrize("live", [0, -1, 1, 3, 10**9, 1.5, True, None])
def test_a_graph_for_other_bytes_than_the_runtime_lays_out_is_refused(live: Any) -> None:
    given, policy = problem((3,) * 4, 4), policy_with(2, 2, **HALVES)
    graph = replace(SCHEDULES["zigzag"].build(given, policy), live=live)
    with pytest.raises(GraphError, match="FP829"):
        placement_of(graph, given.model, policy, next(fill_blocks(given.workload, policy)))


# -- what is proved once -------------------------------------------------------------------------------------------
def test_passes_that_repeat_are_proved_once() -> None:
    graph, placement = placed(SCHEDULES["zigzag"], problem((3,) * 4, 30), policy_with(2, 2, **HALVES))
    proof, looked_at = Proof(placement), 0
    named = proof.named

    def counted(sweep: Sweep) -> Iterator[Any]:
        nonlocal looked_at
        looked_at += 1
        return named(sweep)

    proof.named = counted  # type: ignore[method-assign]
    for sweep in graph.sweeps():
        proof.sweep(sweep)
    proof.finish(lambda k: False)
    assert looked_at < 8


@pytest.mark.parametrize("seed", range(40))
def test_what_is_not_looked_at_would_have_been_accepted(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph with one thing changed, maybe late, is judged alike with and without the short way."""
    hosts = seed % 2 == 0
    policy = policy_with(2, 2, **HALVES, cpu_cache_compute=hosts, overlap=seed % 3 != 0)
    mutant = Mutated(SCHEDULES["rowwise" if seed % 5 == 0 else "zigzag"], seed)
    windows = (3, 0) if seed % 4 == 1 else ()

    def verdict() -> str:
        try:
            prove(*placed(mutant, problem((3, 2, 4, 4), 12, windows), policy))
        except GraphError as refusal:
            return str(refusal)
        return "accepted"

    short = verdict()
    monkeypatch.setattr(Repeats, "goes_on", lambda self, form: False)
    assert verdict() == short, mutant.what


def test_tasks_show_their_values() -> None:
    graph, placement = placed(SCHEDULES["zigzag"], problem((3,) * 4, 3), policy_with(2, 2, **HALVES))
    lines = list(named_lines(graph, placement))
    assert len(lines) == sum(1 for _ in graph.tasks())
    assert any(
        line.startswith(
            "store_ids@d2h[i=1 j=5 k=0] ids[0]:0-16 = tokens(k=0):16-32 -> outputs[0]:16-32 = tokens(k=0):16-32"
        )
        for line in lines
    ), [line for line in lines if line.startswith("store_ids")]
    assert {line.partition("@")[0] for line in lines} <= set(KINDS)


# -- what needs two changes, or no honest container ------------------------------------------------------------------
@pytest.mark.parametrize("buffer", ["hidden_decode", "cache_ring"])
def test_a_task_works_in_one_slot_of_a_ring(buffer: str) -> None:
    """Read at one index, written at another, where the next reader looks: a handler would have worked in the first."""
    graph, placement = placed(SCHEDULES["zigzag"], problem((3,) * 4, 4), policy_with(2, 2, w=(0, 100), cache=(0, 100)))
    if buffer == "hidden_decode":
        graph, placement = placed(
            SCHEDULES["zigzag"], problem((3,) * 4, 4), policy_with(2, 2, cache=(100, 0), act=(0, 100))
        )

    def change(tasks: list[Task]) -> list[Task]:
        both = [n for n, t in enumerate(tasks) if _uses(t.reads, buffer) and _uses(t.writes, buffer)]
        at = next(n for n in both if tasks[n].kind == "compute")
        writes = tuple(a._replace(index=a.index + 1) if a.buffer == buffer else a for a in tasks[at].writes)
        tasks[at] = tasks[at]._replace(writes=writes)
        return tasks

    with pytest.raises(GraphError, match="FP827"):
        prove(changed(graph, change), placement)


def _uses(accesses: tuple[Any, ...], buffer: str) -> bool:
    return any(access.buffer == buffer for access in accesses)


def test_accesses_that_may_change_after_the_proof_are_refused() -> None:
    graph, placement = placed(SCHEDULES["zigzag"], problem((3,) * 4, 4), policy_with(2, 2))
    with pytest.raises(GraphError, match="FP830"):
        prove(changed(graph, lambda tasks: [tasks[0]._replace(reads=list(tasks[0].reads)), *tasks[1:]]), placement)


def test_a_proved_graph_has_the_layouts_own_buffers() -> None:
    graph, placement = placed(SCHEDULES["zigzag"], problem((3,) * 4, 4), policy_with(2, 2))

    class Lying(dict):  # type: ignore[type-arg]
        def __ne__(self, other: object) -> bool:
            return False

        __eq__ = object.__eq__
        __hash__ = object.__hash__  # type: ignore[assignment]

    few = {name: replace(b, offsets=b.offsets * 2, sizes=b.sizes * 2) for name, b in graph.buffers.items()}
    given, block = problem((3,) * 4, 4), placement.block
    with pytest.raises(GraphError, match="FP829"):
        placement_of(replace(graph, buffers=Lying(few)), given.model, placement.policy, block)
    assert type(proved(graph, placement).buffers) is type(graph.buffers) is dict


@pytest.mark.parametrize("number", [10**5000, -1, 1.0, True], ids=["huge", "negative", "float", "bool"])
def test_numbers_that_are_none_are_refused_with_an_error_that_can_be_written(number: Any) -> None:
    graph, placement = placed(SCHEDULES["zigzag"], problem((3,) * 4, 4), policy_with(2, 2, **HALVES))
    for field in ("i", "j", "k", "part"):
        with pytest.raises(GraphError, match="FP825"):
            prove(changed(graph, with_first("compute", **{field: number})), placement)
