"""No simulated block beats its bound, and a lane that is never idle reaches it."""

from __future__ import annotations

import random
from itertools import product

import pytest
from flexplan_planners.schedules.rowwise import RowWise
from flexplan_planners.schedules.zigzag import ZigZag

from flexplan.cost import Rates
from flexplan.hardware import hardware_from
from flexplan.policy import Policy
from flexplan.problem import Problem, Workload
from flexplan.simulation import bound_of, predict, simulate_graph
from flexplan.simulation.bounds import busy_seconds
from flexplan.testing import policy_with, small_shape


def asked(gen_len: int = 6, hardware: str = "t4-gcp") -> Problem:
    return Problem.of("facebook/opt-125m", hardware=hardware, prompt_len=24, gen_len=gen_len)


def policies() -> list[Policy]:
    dice = random.Random(1)
    found = []
    for _ in range(12):
        percents = {}
        for name in ("w", "cache", "act"):
            gpu = dice.randint(0, 100)
            percents[name] = (float(gpu), float(dice.randint(0, 100 - gpu)))
        switches = {name: dice.random() < 0.5 for name in ("sep_layer", "pin_weight", "cpu_cache_compute")}
        found.append(policy_with(dice.choice([1, 4, 16]), dice.choice([1, 3]), **percents, **switches))
    return found


@pytest.mark.parametrize("schedule", [ZigZag(), RowWise()], ids=["zigzag", "rowwise"])
@pytest.mark.parametrize("policy", policies(), ids=lambda p: f"{p.gpu_batch_size}x{p.num_gpu_batches}")
def test_no_block_is_faster_than_its_bound(policy: Policy, schedule: ZigZag) -> None:
    problem = asked()
    bound = bound_of(problem, policy, schedule, (24,) * policy.block_size)
    assert 0 < bound.total_s <= predict(problem, policy, schedule).block_s * 1.001


@pytest.mark.parametrize("gen_len", [8, 9, 24])
@pytest.mark.parametrize(
    "policy", [Policy(8), policy_with(8, 1, w=(50, 50), cache=(100, 0), act=(100, 0))], ids=["gpu", "half"]
)
def test_no_phase_is_promised_faster_than_its_bound(policy: Policy, gen_len: int) -> None:
    """Not by the tail of the phase before it, nor by half a token of context."""
    problem = asked(gen_len, "cpu-host")
    bound = bound_of(problem, policy, ZigZag(), (24,) * 8)
    promised = predict(problem, policy, ZigZag())
    assert 0.99 * promised.decode_s < bound.decode_s <= promised.decode_s * (1 + 1e-9)
    assert 0.98 * promised.prefill_s < bound.prefill_s <= promised.prefill_s * (1 + 1e-9)


def whole(problem: Problem, policy: Policy, schedule: ZigZag | RowWise) -> float:
    """Seconds of a block, every pass and every layer of it simulated."""
    lens = (problem.workload.prompt_len,) * policy.block_size
    workload = Workload(prompt_lens=lens, gen_len=problem.workload.gen_len)
    graph = schedule.build(problem.model_copy(update={"workload": workload}), policy)
    return simulate_graph(graph, Rates(problem.hardware), keep=False).end_s


FETCHED_AHEAD = [  # (model, machine, prompt and new tokens, policy): were at 104, 112, 108 and 106 % of their bound
    (
        "opt-6.7b",
        "h100-pcie5",
        (24, 4),
        policy_with(64, 1, w=(0, 100), cache=(5, 45), act=(0, 100), cpu_cache_compute=True),
    ),
    ("opt-66b", "t4-gcp", (128, 4), policy_with(64, 1, w=(100, 0), cache=(0, 0), act=(100, 0))),
    ("opt-125m", "cpu-host", (128, 30), policy_with(1, 4, w=(0, 100), cache=(50, 50), act=(10, 90), sep_layer=True)),
    ("opt-30b", "cpu-host", (24, 2), policy_with(1, 1, w=(40, 40), cache=(50, 50), act=(0, 80), pin_weight=False)),
]


@pytest.mark.parametrize(("model", "machine", "lens", "policy"), FETCHED_AHEAD, ids=[row[0] for row in FETCHED_AHEAD])
def test_what_is_fetched_ahead_is_in_no_bound_and_hides_no_layer(
    model: str, machine: str, lens: tuple[int, int], policy: Policy
) -> None:
    problem = Problem.of(f"facebook/{model}", hardware=machine, prompt_len=lens[0], gen_len=lens[1])
    bound = bound_of(problem, policy, ZigZag(), (lens[0],) * policy.block_size)
    seconds, promised = whole(problem, policy, ZigZag()), predict(problem, policy, ZigZag()).block_s
    assert 0.95 * seconds < bound.total_s <= min(seconds, promised * 1.0001)
    assert promised == pytest.approx(seconds, rel=0.005)


@pytest.mark.parametrize("schedule", [ZigZag(), RowWise()], ids=["zigzag", "rowwise"])
def test_no_order_beats_a_bound(schedule: ZigZag | RowWise) -> None:
    """Of very different policies and outputs, also short ones, where phases overlap most."""
    for policy, (machine, gen_len) in zip(
        policies(), product(("t4-gcp", "cpu-host", "h100-pcie5"), (2, 3, 4, 9)), strict=True
    ):
        problem = asked(gen_len, machine)
        bound = bound_of(problem, policy, schedule, (24,) * policy.block_size)
        assert bound.total_s <= whole(problem, policy, schedule) * 1.0001, (policy, machine, gen_len)


def windowed(prompt_len: int, gen_len: int = 60) -> Problem:
    """Windows of which some are full from the beginning, some after 18 or 38 tokens, in turns of three layers."""
    shape = small_shape().model_copy(update={"num_layers": 36, "windows": (16, 0, 48) * 12})
    return Problem.of(shape, hardware="t4-gcp", prompt_len=prompt_len, gen_len=gen_len)


@pytest.mark.parametrize("hosted", [True, False])
@pytest.mark.parametrize("prompt_len", [10, 30, 50])
def test_passes_after_a_window_is_full_take_no_longer(prompt_len: int, hosted: bool) -> None:
    """Few layers and few passes say what all of them do."""
    problem = windowed(prompt_len)
    policy = policy_with(16, 2, w=(100, 0), cache=(0, 100), cpu_cache_compute=hosted)
    graph = ZigZag().build(
        problem.model_copy(update={"workload": Workload(prompt_lens=(prompt_len,) * 32, gen_len=60)}), policy
    )
    predicted = predict(problem, policy, ZigZag()).block_s
    assert predicted == pytest.approx(simulate_graph(graph, Rates(problem.hardware), keep=False).end_s, rel=0.005)
    assert bound_of(problem, policy, ZigZag(), (prompt_len,) * 32).total_s <= predicted * 1.001


def test_one_task_after_the_other_is_its_own_bound() -> None:
    policy = policy_with(4, 1, w=(50, 50), cache=(100, 0), act=(100, 0), overlap=False)
    bound = bound_of(asked(), policy, ZigZag(), (24,) * 4)
    assert bound.decode_limit == "inline"
    assert predict(asked(), policy, ZigZag()).block_s == pytest.approx(bound.total_s, rel=0.02)


def test_where_all_is_resident_the_gpu_is_never_idle() -> None:
    at_once = hardware_from("t4-gcp").model_copy(update={"copy_s": 1e-6})  # token ids come and go
    problem = asked().model_copy(update={"hardware": at_once})
    bound = bound_of(problem, Policy(8), ZigZag(), (24,) * 8)
    assert (bound.prefill_limit, bound.decode_limit) == ("gpu", "gpu")
    assert predict(problem, Policy(8), ZigZag()).block_s == pytest.approx(bound.total_s, rel=0.02)


def test_a_single_token_has_no_decoding() -> None:
    bound = bound_of(asked(1), Policy(2), ZigZag(), (24, 24))
    assert (bound.decode_s, bound.decode_limit) == (0.0, "")


def test_of_few_layers_is_of_all() -> None:
    """The work of a deep model is that of some layers, extended."""
    problem, policy = asked(), policy_with(4, 2, w=(0, 100), cache=(0, 100), act=(0, 100))
    one = Workload(prompt_lens=(24,) * 8, gen_len=1)
    graph = ZigZag().build(problem.model_copy(update={"workload": one}), policy)
    whole = busy_seconds(graph.tasks(), Rates(problem.hardware))
    bound = bound_of(problem, policy, ZigZag(), (24,) * 8)
    assert bound.prefill_s == pytest.approx(max(whole.values()), rel=1e-3)
