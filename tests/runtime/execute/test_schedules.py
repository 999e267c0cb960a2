"""The graph is the program: any schedule runs unchanged, in the order in which it was simulated."""

from __future__ import annotations

import ast
import inspect
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from flexplan_runtime.execute import block_run, executor, lanes
from flexplan_runtime.execute.handlers import attention as attention_handlers
from flexplan_runtime.execute.handlers import compute as compute_handlers
from flexplan_runtime.execute.handlers import table as handlers
from flexplan_runtime.execute.handlers import transfers
from flexplan_runtime.memory import Arenas
from injectors import Handler, wrap_handlers
from policies import Case, blocks_of, covering, generated, opened, text_prompts, text_reference

from flexplan.cost import Rates
from flexplan.errors import NoNumbers
from flexplan.graph import Task, TaskGraph, Tracker
from flexplan.hardware import hardware_from
from flexplan.policy import Block, Policy
from flexplan.problem import Problem
from flexplan.schedule import graph_of
from flexplan.simulation import simulate_graph
from flexplan.testing import policy_with

Passes = list[tuple[int, Sequence[int]]]


# -- schedules of a stranger's -------------------------------------------------------------------------------------
class Reversed:
    """The last micro-batch first."""

    live: int | None = None

    def build(self, problem: Problem, policy: Policy) -> TaskGraph:
        return graph_of(type(self).__name__, problem, policy, self.passes, self.live)

    def passes(self, block: Block) -> Passes:
        return [(i, range(len(block.batches))[::-1]) for i in range(block.gen_len)]


class Serpentine(Reversed):
    """Forth in one pass, back in the next."""

    def passes(self, block: Block) -> Passes:
        return [(i, range(len(block.batches))[:: -1 if i % 2 else 1]) for i in range(block.gen_len)]


class Shuffled(Reversed):
    """Another order in every pass."""

    def passes(self, block: Block) -> Passes:
        rng, ks = random.Random(3), range(len(block.batches))
        return [(i, rng.sample(ks, len(ks))) for i in range(block.gen_len)]


class InPairs(Reversed):
    """Two micro-batches through all their tokens, then the next two."""

    live = 2

    def passes(self, block: Block) -> Passes:
        ks = range(len(block.batches))
        return [(i, ks[first : first + 2]) for first in ks[::2] for i in range(block.gen_len)]


class OneMoreEachTime(Reversed):
    """Prefill one by one, then decode all together."""

    def passes(self, block: Block) -> Passes:
        ks = range(len(block.batches))
        return [*((0, (k,)) for k in ks), *((i, ks) for i in range(1, block.gen_len))]


STRANGERS = [Reversed, Serpentine, Shuffled, InPairs, OneMoreEachTime]
SPREAD = dict.fromkeys(("w", "cache", "act"), (30.0, 40.0))
POLICIES = {
    "all on the gpu": Policy(2, 4),
    "three tiers": policy_with(2, 4, **SPREAD),
    "no overlap": policy_with(2, 3, **SPREAD, overlap=False, sep_layer=False),
    "attention on the host": policy_with(2, 4, **SPREAD, cpu_cache_compute=True),
    "all on disk": policy_with(2, 3, w=(0.0, 0.0), cache=(0.0, 0.0), act=(0.0, 0.0), pin_weight=False),
}


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("schedule", STRANGERS, ids=lambda s: s.__name__)
def test_another_order_of_micro_batches_gives_the_same_tokens(
    schedule: type[Reversed], name: str, tiny_opt: Path, tmp_path: Path
) -> None:
    policy = POLICIES[name]
    case, expected = Case(policy, num_prompts=policy.block_size - 1), text_reference(tiny_opt)
    with opened(tiny_opt, policy, tmp_path, schedule=schedule()) as lm:
        output = lm.generate(expected.prompts[: case.num_prompts], max_new_tokens=4, pad_token_id=0, trace=True)
        ran = [span.name for span in lm.timeline.spans if span.name.startswith("compute@")]
    assert torch.equal(output, expected.expected(case))
    if schedule is Reversed:  # it really was another order
        assert ran[0].endswith(f"k={policy.num_gpu_batches - 1}]")


def test_stops_end_a_strangers_schedule_too(tiny_opt: Path, tmp_path: Path) -> None:
    prompts = text_prompts(tiny_opt, 7)
    stop = int(text_reference(tiny_opt).tokens[2, 1])
    outputs = []
    for schedule in ("zigzag", Reversed(), InPairs()):
        with opened(tiny_opt, POLICIES["three tiers"], tmp_path, schedule=schedule) as lm:
            outputs.append(lm.generate(prompts, max_new_tokens=4, stop=stop))
    assert all(torch.equal(output, outputs[0]) for output in outputs)


# -- no loop over layers -------------------------------------------------------------------------------------------
def loops_over_layers(source: str) -> list[str]:
    """Loops whose iterable speaks of layers or depths, and anything that counts j itself."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.For | ast.comprehension):
            text = f"for {ast.unparse(node.target)} in {ast.unparse(node.iter)}"
        elif isinstance(node, ast.While):
            text = f"while {ast.unparse(node.test)}"
        elif isinstance(node, ast.AugAssign) and ast.unparse(node.target).split(".")[-1] == "j":
            found.append(ast.unparse(node))
            continue
        else:
            continue
        if any(word in text for word in ("layer", "depth", " j ")):
            found.append(text)
    return found


@pytest.mark.parametrize(
    "module",
    [executor, handlers, transfers, attention_handlers, compute_handlers, block_run, lanes],
    ids=lambda m: m.__name__,
)
def test_the_runtime_has_no_loop_over_layers(module: ModuleType) -> None:
    assert loops_over_layers(inspect.getsource(module)) == []


def test_a_loop_over_layers_would_be_found() -> None:
    assert loops_over_layers("for layer in placement.layers:\n    run(layer)")
    assert loops_over_layers("[run(n) for n in range(shape.num_layers)]")
    assert loops_over_layers("while depth < n:\n    pass")
    assert loops_over_layers("j += 1")


# -- the order ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", covering(24, seed=9, gen_len=(3, 4)), ids=str)
def test_each_lane_runs_in_the_order_that_was_simulated(case: Case, tiny_opt: Path, tmp_path: Path) -> None:
    prompts = text_prompts(tiny_opt)[: min(case.num_prompts, case.policy.block_size)]
    with opened(tiny_opt, case.policy, tmp_path, schedule=case.schedule) as lm:
        lm.generate(prompts, max_new_tokens=case.gen_len, trace=True)
        (block,) = blocks_of(lm, prompts, case.gen_len)
        simulated = simulate_graph(block.graph, Rates(hardware_from()))
    assert lm.timeline.num_tasks == simulated.num_tasks
    assert lm.timeline.lane_order() == simulated.lane_order()


def test_no_task_starts_before_those_it_waits_for_have_ended(tiny_opt: Path, tmp_path: Path) -> None:
    prompts = text_prompts(tiny_opt, 7)
    with opened(tiny_opt, POLICIES["attention on the host"], tmp_path) as lm:
        lm.generate(prompts, max_new_tokens=3, trace=True)
        (block,) = blocks_of(lm, prompts, 3)
        spans = {span.name: span for span in lm.timeline.spans}
        steps = list(block.graph.nodes())
    assert len(spans) == len(steps)  # a name is one task's
    for step in steps:
        for number in step.after:
            assert spans[steps[number].task.name].end_s <= spans[step.task.name].start_s


# -- adversarial order -------------------------------------------------------------------------------------------------
ADVERSARIAL = covering(30, seed=10, gen_len=(2, 3), overlap=(True,), gpu_batch_size=(1, 2, 3))


def delayed(seed: int) -> Callable[[Handler], Handler]:
    """Before and after some tasks, up to 2 ms of sleep."""
    rng = random.Random(seed)

    def wrap(handler: Handler) -> Handler:
        def late(*args: object) -> None:
            before, after = (rng.random() * 0.002 if rng.random() < 0.2 else 0 for _ in range(2))
            time.sleep(before)
            handler(*args)
            time.sleep(after)

        return late

    return wrap


def poison_new_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh arenas are full of NaN: what is read before it is written shows."""
    real = Arenas._memory

    def poisoned(self: Arenas, name: str, nbytes: int) -> torch.Tensor:
        return real(self, name, nbytes).fill_(0xFF)

    monkeypatch.setattr(Arenas, "_memory", poisoned)


@pytest.mark.parametrize("number", range(len(ADVERSARIAL)))
def test_delays_in_every_lane_change_no_token(
    number: int, tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, expected = ADVERSARIAL[number], text_reference(tiny_opt)
    poison_new_memory(monkeypatch)
    wrap_handlers(monkeypatch, delayed(number))
    output = generated(tiny_opt, case, expected.prompts, tmp_path)
    assert torch.equal(output, expected.expected(case)), str(case)


def test_delays_would_show_a_missing_edge(tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above proves something: without the edges between lanes its tokens are wrong."""
    real, expected = Tracker.waits, text_reference(tiny_opt)

    def forget(self: Tracker, task: Task) -> dict[str, int]:
        real(self, task)
        return {}

    monkeypatch.setattr(Tracker, "waits", forget)
    poison_new_memory(monkeypatch)
    wrap_handlers(monkeypatch, delayed(0))
    for hosted in (False, True):  # nothing on disk, where checksums would be the first to tell
        policy = policy_with(2, 4, w=(30.0, 70.0), cache=(30.0, 70.0), act=(30.0, 70.0), cpu_cache_compute=hosted)
        case = Case(policy, num_prompts=8)
        try:
            found = generated(tiny_opt, case, expected.prompts, tmp_path)
        except NoNumbers:  # the poison itself has come through
            continue
        assert not torch.equal(found, expected.expected(case))
