"""Contracts as test classes: subclass one, say how your planner or schedule is made, and run pytest.

::

    class TestGreedy(PlannerContract):
        def make_planner(self):
            return GreedyPlanner()
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from itertools import product
from typing import Any

from flexplan.cost import Rates
from flexplan.errors import InfeasiblePlan
from flexplan.graph import TIERS, TaskGraph, check_graph, check_memory
from flexplan.model import ModelShape, model_shape, schedule_layers
from flexplan.placement import Layout, Placement
from flexplan.plan import Plan, Planner, Schedule, solve
from flexplan.policy import Policy, fill_blocks
from flexplan.problem import Problem
from flexplan.proof import prove
from flexplan.sandbox import schedule_of
from flexplan.sandbox.trial import trial
from flexplan.schedule import placement_of
from flexplan.simulation import simulate_graph
from flexplan.units import MiB

_SHARES = (
    (100.0, 0.0, 100.0, 0.0, 100.0, 0.0),
    (0.0, 100.0, 0.0, 100.0, 0.0, 100.0),
    (30.0, 40.0, 25.0, 50.0, 20.0, 40.0),
)


def policy_with(
    gpu_batch_size: int,
    num_gpu_batches: int = 1,
    *,
    w: tuple[float, float] = (100, 0),
    cache: tuple[float, float] = (100, 0),
    act: tuple[float, float] = (100, 0),
    **switches: Any,
) -> Policy:
    """A policy whose percents are said by name: (on the gpu, on the cpu) of weights, cache and activations."""
    return Policy(gpu_batch_size, num_gpu_batches, *w, *cache, *act, **switches)


def shallow(name: str, num_layers: int = 2) -> ModelShape:
    """A model known by its name, but of a few layers: they are alike, and tests are to be quick."""
    return model_shape(name).model_copy(update={"num_layers": num_layers})


def small_shape() -> ModelShape:
    """A model of three layers with grouped queries and 6 MiB of weights."""
    return ModelShape(
        name="contract",
        family="llama",
        num_layers=3,
        hidden_size=256,
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
        ffn_size=768,
        gated=True,
        vocab_size=2048,
        embed_size=256,
        tied_embeddings=True,
        positions="rotary",
        max_positions=256,
        norm="rms",
    )


def small_problem(gpu_mem: int = 13 * MiB // 2, cpu_mem: int = 48 * MiB, disk_mem: int = 48 * MiB) -> Problem:
    """Eight prompts for `small_shape` on a GPU that does not hold it."""
    return Problem.of(
        small_shape(), gpu_mem=gpu_mem, cpu_mem=cpu_mem, disk_mem=disk_mem, prompt_len=24, gen_len=5, num_prompts=8
    )


def roomy_problem(num_layers: int = 3, gen_len: int = 5, num_prompts: int = 8) -> Problem:
    """The same on a machine with room for all of it on every tier."""
    mem = 256 * MiB
    problem = Problem.of(
        small_shape(), gpu_mem=mem, cpu_mem=mem, disk_mem=mem, prompt_len=24, gen_len=gen_len, num_prompts=num_prompts
    )
    return problem.with_layers(num_layers)


Test = Callable[[Any], None]


def sandboxed(test: Test) -> Test:
    """A test that runs in a forked process, so that it ends whatever is tested, after ``most_seconds`` at most."""

    @wraps(test)
    def run(self: Any) -> None:
        if not self.runs_apart:
            test(self)
            return
        why = trial(lambda: test(self), self.most_seconds)
        assert why is None, why

    return run


class _Contract:
    """Each test runs in a process of its own; ``runs_apart = False`` lets a debugger in."""

    runs_apart = True
    most_seconds = 120.0  # of each test


class PlannerContract(_Contract):
    """What every planner keeps; override ``make_planner``, and ``problems`` where it needs others.

    A planner leaves neither processes nor threads behind, ends neither itself nor others, and ends within
    ``most_seconds``.
    """

    def make_planner(self) -> Planner:
        """A fresh planner."""
        raise NotImplementedError

    def problems(self) -> Sequence[Problem]:
        """Problems that it can solve."""
        return [small_problem(), small_problem(gpu_mem=64 * MiB)]

    def hopeless(self) -> Problem:
        """A problem that nothing fits."""
        return small_problem(gpu_mem=64 * 1024)

    @sandboxed
    def test_plans_are_accepted_by_the_independent_checker(self) -> None:
        for problem in self.problems():
            assert isinstance(solve(problem, self.make_planner()), Plan)

    @sandboxed
    def test_budgets_are_never_exceeded(self) -> None:
        for problem in self.problems():
            plan = self.make_planner().plan(problem)
            block = next(fill_blocks(problem.workload, plan.policy))
            layout = Layout.of(Placement.of(problem.model, plan.policy, block, plan.graph.live))
            check_memory(plan.graph, problem.budgets(), {"gpu": layout.arena_bytes["gpu.workspace"]})
            assert all(layout.tier_bytes()[tier] <= problem.budgets()[tier] for tier in TIERS)

    @sandboxed
    def test_equal_problems_get_equal_plans(self) -> None:
        for problem in self.problems():
            planner = self.make_planner()
            texts = {planner.plan(problem).to_json(), planner.plan(problem).to_json()}
            assert {*texts, self.make_planner().plan(problem).to_json()} == texts and len(texts) == 1

    @sandboxed
    def test_the_problem_is_left_as_it_was(self) -> None:
        for problem in self.problems():
            before = problem.model_dump_json()
            self.make_planner().plan(problem)
            assert problem.model_dump_json() == before

    @sandboxed
    def test_a_plan_survives_its_file(self) -> None:
        for problem in self.problems():
            plan = self.make_planner().plan(problem)
            assert Plan.from_json(plan.to_json()).to_json() == plan.to_json()

    @sandboxed
    def test_a_prediction_is_a_positive_speed(self) -> None:
        for problem in self.problems():
            assert self.make_planner().plan(problem).prediction.tokens_per_s > 0

    @sandboxed
    def test_what_fits_nowhere_is_refused_with_numbers(self) -> None:
        refusal = refusal_of(self.make_planner(), self.hopeless())
        assert refusal is not None, "a plan for a problem that nothing fits"
        assert refusal.binding and set(refusal.binding) <= set(TIERS)
        assert set(refusal.smallest_budget_bytes) == set(TIERS)

    @sandboxed
    def test_the_smallest_budget_works_and_1_mib_less_does_not(self) -> None:
        problem = self.hopeless()
        refusal = refusal_of(self.make_planner(), problem)
        for tier, nbytes in (refusal.smallest_budget_bytes if refusal else {}).items():
            if nbytes is not None:
                assert refusal_of(self.make_planner(), problem.with_budgets(**{tier: nbytes})) is None
                less = max(0, nbytes - MiB)
                assert refusal_of(self.make_planner(), problem.with_budgets(**{tier: less})) is not None


def refusal_of(planner: Planner, problem: Problem) -> InfeasiblePlan | None:
    """The InfeasiblePlan that a planner raises, or None."""
    try:
        planner.plan(problem)
    except InfeasiblePlan as refusal:
        return refusal
    return None


class ScheduleContract(_Contract):
    """What every schedule keeps; override ``make_schedule``, and ``cases`` where it needs others.

    A schedule leaves neither processes nor threads behind, and ends within ``most_seconds``.
    """

    def make_schedule(self) -> Schedule:
        """A fresh schedule."""
        raise NotImplementedError

    def cases(self) -> Iterator[tuple[Problem, Policy]]:
        """Problems and policies: every tier, with and without overlap, whole and split layers, few and many."""
        for policy in self.policies():
            yield roomy_problem(), policy
        for policy in (*self.policies(5), *self.policies(1))[:: len(_SHARES)]:
            yield roomy_problem(num_layers=9, gen_len=12, num_prompts=10), policy

    def policies(self, num_gpu_batches: int = 3) -> Iterator[Policy]:
        """Policies of so many micro-batches."""
        for w_gpu, w_cpu, cache_gpu, cache_cpu, act_gpu, act_cpu in _SHARES:
            for overlap, sep_layer, host in ((True, False, True), (True, True, False), (False, True, True)):
                yield Policy(
                    gpu_batch_size=2,
                    num_gpu_batches=num_gpu_batches,
                    w_gpu_percent=w_gpu,
                    w_cpu_percent=w_cpu,
                    cache_gpu_percent=cache_gpu,
                    cache_cpu_percent=cache_cpu,
                    act_gpu_percent=act_gpu,
                    act_cpu_percent=act_cpu,
                    overlap=overlap,
                    sep_layer=sep_layer,
                    cpu_cache_compute=host,
                )

    def graphs(self) -> Iterator[tuple[Problem, Policy, TaskGraph]]:
        """The graph of every case; PluginError where it is not well-formed, or endless."""
        for problem, policy in self.cases():
            yield problem, policy, schedule_of(self.make_schedule()).build(problem, policy)

    @sandboxed
    def test_graphs_pass_the_independent_checker(self) -> None:
        for problem, policy, graph in self.graphs():
            block = next(fill_blocks(problem.workload, policy))
            layout = Layout.of(Placement.of(problem.model, policy, block, graph.live))
            check_graph(graph, problem.budgets(), {"gpu": layout.arena_bytes["gpu.workspace"]})

    @sandboxed
    def test_graphs_compute_what_the_mathematics_asks(self) -> None:
        for problem, policy, graph in self.graphs():
            block = next(fill_blocks(problem.workload, policy))
            prove(graph, placement_of(graph, problem.model, policy, block))

    @sandboxed
    def test_graphs_survive_their_text(self) -> None:
        for _, _, graph in self.graphs():
            text = graph.to_text()
            assert TaskGraph.from_text(text).to_text() == text

    @sandboxed
    def test_equal_problems_get_equal_graphs(self) -> None:
        for problem, policy, graph in self.graphs():
            assert schedule_of(self.make_schedule()).build(problem, policy).to_text() == graph.to_text()

    @sandboxed
    def test_every_token_of_every_micro_batch_is_computed_once(self) -> None:
        for problem, policy, graph in self.graphs():
            block = next(fill_blocks(problem.workload, policy))
            tasks = list(graph.tasks())
            done = Counter((task.j, task.i, task.k) for task in tasks if task.kind == "compute")
            layers = len(schedule_layers(problem.model, policy.sep_layer))
            assert done == Counter(product(range(layers), range(block.gen_len), range(len(block.batches))))

    @sandboxed
    def test_tokens_of_a_micro_batch_come_in_order(self) -> None:
        for _, _, graph in self.graphs():
            last: dict[int, tuple[int, int]] = {}
            for task in graph.tasks():
                if task.kind == "compute":
                    assert last.get(task.k, (-1, -1)) < (task.i, task.j)
                    last[task.k] = (task.i, task.j)

    @sandboxed
    def test_a_finished_micro_batch_is_left_out(self) -> None:
        for _, _, graph in self.graphs():
            assert all(0 not in sweep.ks for sweep in graph.sweeps(lambda k: k == 0))

    @sandboxed
    def test_the_simulator_ends_every_task(self) -> None:
        for problem, _, graph in self.graphs():
            timeline = simulate_graph(graph, Rates(problem.hardware))
            assert timeline.num_tasks == sum(1 for _ in graph.tasks())
