"""The checker accepts what the schedules write, and no mutant that any execution breaks gets past it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any

import pytest
from flexplan_planners.schedules.rowwise import RowWise
from flexplan_planners.schedules.zigzag import ZigZag
from hypothesis import given, settings
from hypothesis import strategies as st

from flexplan.errors import GraphError, InfeasiblePlan
from flexplan.graph import Access, Buffer, Node, Sweep, Task, TaskGraph, check_graph, check_memory, check_order
from flexplan.model import model_shape
from flexplan.plan import Plan
from flexplan.plan.planner import check_plan
from flexplan.policy import Policy
from flexplan.problem import Problem, Workload
from flexplan.testing import policy_with

TINY = model_shape("facebook/opt-125m").model_copy(
    update={
        "num_layers": 2,
        "hidden_size": 16,
        "embed_size": 16,
        "num_heads": 4,
        "num_kv_heads": 4,
        "head_dim": 4,
        "ffn_size": 32,
        "vocab_size": 64,
    }
)
PROBLEM = Problem.of(TINY, prompt_len=3, gen_len=3)
MIXTURE = PROBLEM.model_copy(
    update={"model": TINY.model_copy(update={"num_experts": 4, "experts_per_token": 2, "expert_ffn_size": 16})}
)
SCHEDULES = {"zigzag": ZigZag(), "rowwise": RowWise()}


def policy(block: tuple[int, int], w: str, cache: str, act: str, **switches: Any) -> Policy:
    """``w``, ``cache`` and ``act`` are "gpu cpu" percents."""
    percents = {"w": w, "cache": cache, "act": act}
    pairs = {name: tuple(map(float, pair.split())) for name, pair in percents.items()}
    return policy_with(*block, **pairs, **switches)


@st.composite
def shares(draw: st.DrawFn) -> str:
    gpu = draw(st.sampled_from([0, 0, 25, 50, 90, 100]))
    cpu = draw(st.sampled_from([0, 30, 50, 100]))
    return f"{gpu} {min(cpu, 100 - gpu)}"


def thinned(p: Policy, sparsity: float) -> Policy:
    """The policy with sparse attention, where it may have it."""
    return p if p.cache_disk_percent else replace(p, attn_sparsity=sparsity)


policies = st.builds(
    thinned,
    st.builds(
        policy,
        st.tuples(st.integers(1, 3), st.integers(1, 4)),
        shares(),
        shares(),
        shares(),
        overlap=st.booleans(),
        sep_layer=st.booleans(),
        pin_weight=st.booleans(),
        cpu_cache_compute=st.booleans(),
    ),
    st.sampled_from([1.0, 0.1, 0.4, 0.9]),
)


# -- what the schedules write -----------------------------------------------------------------------------------
@settings(max_examples=300, deadline=None)
@given(policies, st.sampled_from(sorted(SCHEDULES)), st.lists(st.integers(1, 5), max_size=9), st.integers(1, 4))
def test_every_schedule_of_every_policy_is_accepted(
    p: Policy, schedule: str, prompt_lens: list[int], gen_len: int
) -> None:
    workload = Workload(prompt_lens=tuple(prompt_lens), gen_len=gen_len)
    problem = PROBLEM.model_copy(update={"workload": workload})
    check_graph(SCHEDULES[schedule].build(problem, p), PROBLEM.budgets())


def test_rows_that_stop_early_leave_a_graph_that_is_accepted() -> None:
    graph = ZigZag().build(PROBLEM, policy((2, 3), "0 50", "0 50", "0 50", cpu_cache_compute=True))
    asked = 0

    def finished(k: int) -> bool:
        nonlocal asked
        asked += 1
        return k == 1 and asked > 4

    sweeps = list(graph.sweeps(finished))
    assert [sweep.ks for sweep in sweeps][:2] == [(0, 1, 2), (0, 2)]
    check_order(graph.buffers, TaskGraph.of("stops", 3, graph.buffers, sweeps).nodes())


# -- mutants ----------------------------------------------------------------------------------------------------
HOSTED = {"cpu_cache_compute": True}
MUTATED = {
    "weights stream": ("zigzag", policy((1, 2), "0 100", "100 0", "100 0", sep_layer=False)),
    "weights from disk": ("zigzag", policy((1, 2), "20 40", "100 0", "100 0", sep_layer=False)),
    "weights staged": ("zigzag", policy((1, 2), "0 50", "100 0", "100 0", pin_weight=False)),
    "cache streams": ("zigzag", policy((2, 2), "100 0", "0 100", "100 0")),
    "cache from disk": ("zigzag", policy((2, 2), "100 0", "30 30", "100 0")),
    "host attention": ("zigzag", policy((2, 2), "0 100", "0 100", "100 0", **HOSTED)),
    "host attention, one layer": (
        "zigzag",
        policy((1, 3), "0 100", "50 0", "0 100", cpu_cache_compute=True, sep_layer=False),
    ),
    "host attention, mixed": ("zigzag", policy((1, 3), "0 100", "90 0", "0 50", **HOSTED)),
    "activations move": ("zigzag", policy((2, 3), "100 0", "100 0", "30 30")),
    "everything moves": ("zigzag", policy((2, 2), "20 40", "20 40", "20 40", pin_weight=False)),
    "cache streams, sparse": ("zigzag", policy((1, 2), "100 0", "0 100", "100 0", attn_sparsity=0.4)),
    "cache streams, sparse and mixed": (
        "zigzag",
        policy((1, 3), "0 50", "70 30", "0 50", attn_sparsity=0.4, sep_layer=False),
    ),
    "row by row, sparse": ("rowwise", policy((1, 2), "50 0", "0 100", "0 100", attn_sparsity=0.4)),
    "row by row": ("rowwise", policy((1, 2), "0 50", "0 50", "0 50")),
    "row by row, hosted": ("rowwise", policy((1, 2), "0 50", "0 50", "100 0", **HOSTED)),
    "experts on demand": ("zigzag", policy((2, 1), "20 60", "100 0", "0 100", experts_on_demand=True)),
}


@dataclass(frozen=True)
class Mutant:
    what: str
    buffers: dict[str, Buffer]
    nodes: list[Node]
    held: int | None = None  # the task that nobody may wait for any more


def mutants(graph: TaskGraph, nodes: list[Node]) -> Iterator[Mutant]:
    """Each edge dropped, each edge moved to the task before on its lane, each ring one slot shorter."""
    before, last = {}, {}
    for node in nodes:
        before[node.number] = last.get(node.task.lane)
        last[node.task.lane] = node.number
    for n, node in enumerate(nodes):
        for edge in node.after:
            rest = tuple(other for other in node.after if other != edge)
            early = () if before[edge] is None else (before[edge],)
            for what, after in (("dropped", rest), ("moved", rest + early)):
                mutated = [*nodes[:n], node._replace(after=after), *nodes[n + 1 :]]
                yield Mutant(f"{edge}->{node.number} {what}", dict(graph.buffers), mutated, edge)
    for name, b in graph.buffers.items():
        if len(b.offsets) > 1 and len(set(b.sizes)) == 1:
            shorter = replace(b, offsets=b.offsets[:-1], sizes=b.sizes[:-1])
            yield Mutant(f"{name} shorter", {**graph.buffers, name: shorter}, nodes)


Runs = list[tuple[int, int]]  # a stamp, and how many bytes in a row have it


class Execution:
    """Runs nodes on symbolic memory: a write stamps bytes with the task's number, a read notes what it sees."""

    def __init__(self, buffers: dict[str, Buffer], nodes: Sequence[Node]) -> None:
        self.nodes = nodes
        self.lanes: dict[str, list[int]] = {}
        for node in nodes:
            self.lanes.setdefault(node.task.lane, []).append(node.number)
        spans = [[self._spans(buffers, accesses) for accesses in (s.task.reads, s.task.writes)] for s in nodes]
        cuts = sorted({edge for both in spans for found in both for lo, hi in found for edge in (lo, hi)})
        place = {edge: n for n, edge in enumerate(cuts)}
        self.size = len(cuts)
        self.nbytes = [after[1] - edge[1] for edge, after in pairwise(cuts)]
        cells = [[[n for lo, hi in found for n in range(place[lo], place[hi])] for found in both] for both in spans]
        self.reads = [both[0] for both in cells]
        self.writes = [both[1] for both in cells]

    @staticmethod
    def _spans(buffers: dict[str, Buffer], accesses: Sequence[Access]) -> list[tuple[tuple[str, int], tuple[str, int]]]:
        spans = []
        for access in accesses:
            lo, hi = buffers[access.buffer].interval(access)
            arena = buffers[access.buffer].arena
            spans.append(((arena, lo), (arena, hi)))
        return spans

    def seen(self, order: Sequence[int]) -> list[Runs]:
        """What each task reads, by number; into how many cells its bytes are cut makes no difference."""
        memory, seen = [-1] * self.size, [[] for _ in self.nodes]  # type: list[int], list[Runs]
        for number in order:
            runs = groupby(self.reads[number], memory.__getitem__)
            seen[number] = [(stamp, sum(self.nbytes[cell] for cell in cells)) for stamp, cells in runs]
            for cell in self.writes[number]:
                memory[cell] = number
        return seen

    def order(self, rng: random.Random, held: int | None) -> list[int]:
        """A legal order at random; with ``held`` one that keeps a task back as long as anything else can run."""
        done: set[int] = set()
        order: list[int] = []
        at = dict.fromkeys(self.lanes, 0)
        taste = {lane: rng.random() for lane in self.lanes}
        while len(order) < len(self.nodes):
            ready = [
                numbers[at[lane]]
                for lane, numbers in self.lanes.items()
                if at[lane] < len(numbers) and done.issuperset(self.nodes[numbers[at[lane]]].after)
            ]
            free = [number for number in ready if number != held] or ready
            whim = rng.random() < 0.2
            number = rng.choice(free) if whim else max(free, key=lambda n: taste[self.nodes[n].task.lane])
            done.add(number)
            order.append(number)
            at[self.nodes[number].task.lane] += 1
        return order


def refused(mutant: Mutant) -> bool:
    try:
        check_order(mutant.buffers, mutant.nodes)
    except GraphError:
        return True
    return False


def broken(mutant: Mutant, right: list[Runs], rng: random.Random, runs: int) -> bool:
    """Whether some legal execution reads other stamps than the sequential one of the graph that was mutated."""
    execution = Execution(mutant.buffers, mutant.nodes)
    orders = [list(range(len(mutant.nodes)))]
    orders += [execution.order(rng, mutant.held if n % 2 == 0 else None) for n in range(runs)]
    return any(execution.seen(order) != right for order in orders)


@pytest.mark.parametrize("name", MUTATED)
def test_no_mutant_that_an_execution_breaks_is_accepted(name: str, record_property: Any) -> None:
    schedule, p = MUTATED[name]
    graph = SCHEDULES[schedule].build(MIXTURE if p.experts_on_demand else PROBLEM, p)
    nodes, rng = list(graph.nodes()), random.Random(name)
    check_order(graph.buffers, nodes)
    whole = Execution(dict(graph.buffers), nodes)
    right = whole.seen(range(len(nodes)))
    assert all(whole.seen(whole.order(rng, None)) == right for _ in range(10))
    counts = {"mutants": 0, "refused": 0, "refused and run": 0, "refused and broken": 0}
    missed = []
    for n, mutant in enumerate(mutants(graph, nodes)):
        flagged = refused(mutant)
        counts["mutants"] += 1
        counts["refused"] += flagged
        if flagged and n % 8:
            continue  # a sample shows that the executions can break what should break
        breaks = broken(mutant, right, rng, runs=4)
        counts["refused and run"] += flagged
        counts["refused and broken"] += flagged and breaks
        if breaks and not flagged:
            missed.append(mutant.what)
    record_property("counts", counts)
    print(name, counts)
    assert not missed
    assert counts["refused and broken"] > 0.9 * counts["refused and run"]


# -- by hand ----------------------------------------------------------------------------------------------------
RING = Buffer("ring", "gpu.work", (0, 100), (100, 100))
HOME = Buffer("weights_cpu", "host.weights", (0,), (100,))


def load(index: int, hi: int = 100) -> Task:
    home, slot = Access("weights_cpu", 0, 0, hi), Access("ring", index, 0, hi)
    return Task("load", "up", 0, index, 0, reads=(home,), writes=(slot,))


def use(index: int) -> Task:
    return Task("use", "gpu", 0, index, 0, reads=(Access("ring", index, 0, 100),))


def check(*tasks: tuple[Task, tuple[int, ...]], ring: Buffer = RING) -> None:
    check_order({"ring": ring, "weights_cpu": HOME}, [Node(n, task, after) for n, (task, after) in enumerate(tasks)])


def test_a_ring_that_waits_for_its_readers_is_accepted() -> None:
    """
    up   |0|1|   |2|
    gpu    |0| 1 |
    """
    check((load(0), ()), (use(0), (0,)), (load(1), ()), (use(1), (2,)), (load(2), (1,)), (use(2), (4,)))


@pytest.mark.parametrize(
    ("code", "pointer", "tasks"),
    [
        ("FP814", "<-- reads ring[0]:0-100, which nobody has filled", [(use(0), ())]),
        ("FP814", "<-- reads ring[0]:0-100, which nobody has filled", [(load(0, 60), ()), (use(0), (0,))]),
        ("FP815", "<-- reads ring[0]:0-100, but there lies ring[2]", [(load(0), ()), (load(2), ()), (use(0), (1,))]),
        ("FP816", "<-- reads ring[0]:0-100 without waiting", [(load(0), ()), (use(0), ())]),
        ("FP817", "<-- writes ring[2]:0-100 while ring[0] may", [(load(0), ()), (use(0), (0,)), (load(2), ())]),
        ("FP818", "<-- writes ring[2]:0-100 while ring[0] may", [(load(0), ()), (load(2)._replace(lane="up2"), ())]),
        ("FP813", "<-- waits for task 1, which", [(load(0), (1,)), (use(0), ())]),
        ("FP812", "<-- ring[0]:0-101 is outside its slot of 100 bytes", [(load(0, 101), ())]),
        (
            "FP811",
            "<-- rung[0]:0-1 names no buffer",
            [(Task("x", "gpu", 0, 0, 0, reads=(Access("rung", 0, 0, 1),)), ())],
        ),
    ],
)
def test_a_refusal_points_at_the_break(code: str, pointer: str, tasks: list[tuple[Task, tuple[int, ...]]]) -> None:
    home = Buffer("weights_cpu", "host.weights", (0,), (200,))
    with pytest.raises(GraphError) as refusal:
        check_order(
            {"ring": RING, "weights_cpu": home}, [Node(n, task, after) for n, (task, after) in enumerate(tasks)]
        )
    assert refusal.value.code == code
    assert pointer in refusal.value.message


def test_bytes_decide_not_names() -> None:
    """Two buffers in the same place: their accesses conflict though their names differ."""
    other = Buffer("other", "gpu.work", (50,), (100,))
    write = Task("write", "up", 0, 0, 0, writes=(Access("other", 0, 0, 100),))
    nodes = [Node(0, load(0), ()), Node(1, write, ()), Node(2, use(0), (0, 1))]
    with pytest.raises(GraphError) as refusal:
        check_order({"ring": RING, "weights_cpu": HOME, "other": other}, nodes)
    assert refusal.value.code == "FP815"


def test_a_chain_of_waits_is_as_good_as_a_wait() -> None:
    relay = Task("relay", "cpu", 0, 0, 0)
    check((load(0), ()), (relay, (0,)), (use(0), (1,)))


def test_appending_keeps_few_records() -> None:
    """A cache that grows a row a node is read whole in every node: the checker's work stays linear."""
    long = Buffer("ring", "gpu.work", (0,), (4000,))
    nodes = []
    for n in range(4000):
        row = Task("append", "gpu", n, 0, 0, writes=(Access("ring", 0, n, n + 1),))
        whole = Task("read", "up", n, 0, 0, reads=(Access("ring", 0, 0, n + 1),))
        nodes += [Node(2 * n, row, ()), Node(2 * n + 1, whole, (2 * n,))]
    check_order({"ring": long}, nodes)


# -- memory -----------------------------------------------------------------------------------------------------
def graph_of(*buffers: Buffer, tasks: tuple[Task, ...] = ()) -> TaskGraph:
    return TaskGraph.of("test", 1, {b.name: b for b in buffers}, [Sweep(0, (0,), tasks)])


def test_slots_that_share_bytes_are_refused() -> None:
    with pytest.raises(GraphError) as refusal:
        check_memory(graph_of(RING, Buffer("other", "gpu.work", (199,), (10,))), {"gpu": 1000})
    assert refusal.value.code == "FP810"
    assert "ring[1] and other[0] share" in refusal.value.message


def test_a_ring_may_not_overlap_itself() -> None:
    with pytest.raises(GraphError):
        check_memory(graph_of(Buffer("ring", "gpu.work", (0, 99), (100, 100))), {"gpu": 1000})


def test_an_access_outside_its_slot_is_refused() -> None:
    with pytest.raises(GraphError) as refusal:
        check_memory(graph_of(RING, HOME, tasks=(load(0, 101),)), {"gpu": 1000, "cpu": 1000})
    assert refusal.value.code == "FP812"


def test_a_tier_that_is_too_small_is_named_with_both_numbers_and_a_knob() -> None:
    graph = graph_of(RING, HOME)
    check_memory(graph, {"gpu": 250, "cpu": 100, "disk": 0}, {"gpu": 50})
    with pytest.raises(InfeasiblePlan) as refusal:
        check_memory(graph, {"gpu": 249, "cpu": 100, "disk": 0}, {"gpu": 50})
    assert refusal.value.code == "FP402"
    assert "gpu needs 250 bytes" in refusal.value.message
    assert "budget 249" in refusal.value.message
    assert "--gpu-mem" in refusal.value.fix
    assert refusal.value.binding == ("gpu",)
    assert refusal.value.smallest_budget_bytes["gpu"] == 250


@pytest.mark.parametrize("arena", ["host.work", "pageable.weights"])
def test_both_kinds_of_host_memory_are_charged_to_the_cpu(arena: str) -> None:
    with pytest.raises(InfeasiblePlan) as refusal:
        check_memory(graph_of(replace(RING, arena=arena)), {"gpu": 0, "cpu": 199, "disk": 0})
    assert refusal.value.binding == ("cpu",)


def test_a_plan_is_checked_with_its_workspace() -> None:
    plan = Plan.of(PROBLEM, policy((2, 2), "0 50", "0 50", "0 50"))
    check_plan(plan)
    need = plan.prediction.peak_bytes["gpu"]
    tight = PROBLEM.model_copy(update={"hardware": PROBLEM.hardware.with_budget(gpu=need - 4097)})
    with pytest.raises(InfeasiblePlan):
        check_plan(replace(plan, problem=tight))
