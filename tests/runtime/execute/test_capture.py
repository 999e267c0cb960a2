"""Which decoding steps are captured and replayed, and what happens where no memory is left for that."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from flexplan_runtime.execute import capture as replay

from flexplan import Policy, Problem
from flexplan.graph import GPU, Task, TaskGraph
from flexplan.placement import Placement
from flexplan.plan import Plan
from flexplan.policy import full_block
from flexplan.testing import policy_with

NEW = 12


class Graph:
    """Stands for a captured step: counts its replays."""

    def __init__(self, replayed: Counter[str], name: str) -> None:
        self.replayed = replayed
        self.name = name

    def replay(self) -> None:
        self.replayed[self.name] += 1


@pytest.fixture
def resident() -> tuple[TaskGraph, Placement]:
    return placed(Policy(2, 2))


def placed(policy: Policy) -> tuple[TaskGraph, Placement]:
    problem = Problem.of("facebook/opt-125m", gpu_mem="4G", cpu_mem="8G", prompt_len=8, gen_len=NEW)
    graph = Plan.of(problem, policy).graph
    return graph, Placement.of(problem.model, policy, full_block(problem.workload, policy), graph.live)


def run(graph: TaskGraph, replays: replay.Replays) -> tuple[Counter[tuple[int, str]], int]:
    """How often each gpu task, with its token, did its work by itself, and how many there were."""
    worked: Counter[tuple[int, str]] = Counter()
    tasks = [task for sweep in graph.sweeps() for task in sweep.tasks if task.lane == GPU]
    for task in tasks:
        replays.run(task, lambda task=task: worked.update([(task.i, task.name)]))
    return worked, len(tasks)


def test_a_resident_step_is_captured_when_it_comes_back_and_then_replayed(
    resident: tuple[TaskGraph, Placement], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, placement = resident
    replayed: Counter[str] = Counter()
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(replay, "_capture", lambda work, pool: Graph(replayed, "step"))
    worked, tasks = run(graph, replay.Replays(placement))
    prompts = sum(task.i == 0 for sweep in graph.sweeps() for task in sweep.tasks if task.lane == GPU)
    assert replayed["step"] == tasks - 2 * prompts, "all but the prompt and the first step"
    assert sum(worked.values()) == 2 * prompts
    assert not any(i > 1 for i, _ in worked)


STREAMED = policy_with(2, 3, w=(0, 100), cache=(0, 100), act=(0, 100), sep_layer=False)


@pytest.mark.parametrize("policy", [STREAMED, replace(STREAMED, cpu_cache_compute=True)], ids=["gpu", "host"])
def test_where_weights_and_caches_stream_every_step_is_captured_in_the_second_pass_of_decoding(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, placement = placed(policy)
    replayed: Counter[str] = Counter()
    captured: list[object] = []
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(replay, "_capture", lambda work, pool: captured.append(work) or Graph(replayed, "step"))
    worked, _ = run(graph, replay.Replays(placement))
    one_pass = sum(task.lane == GPU for task in graph_pass(graph, 1))
    assert len(captured) == one_pass
    assert replayed["step"] == one_pass * (NEW - 2)
    assert {i for i, _ in worked} == {0, 1}


def graph_pass(graph: TaskGraph, i: int) -> tuple[Task, ...]:
    return next(sweep.tasks for sweep in graph.sweeps() if sweep.i == i)


def test_steps_run_by_themselves_where_no_memory_is_left(
    resident: tuple[TaskGraph, Placement], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    graph, placement = resident
    tried: list[object] = []

    def capture(work: object, pool: object) -> Graph:
        tried.append(work)
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(replay, "_capture", capture)
    worked, tasks = run(graph, replay.Replays(placement))
    assert len(tried) == 1, "the first failure is the last"
    assert len(worked) == tasks and set(worked.values()) == {1}
    assert "no memory is left" in caplog.text


def test_a_prompt_is_never_captured(resident: tuple[TaskGraph, Placement], monkeypatch: pytest.MonkeyPatch) -> None:
    graph, placement = resident
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(replay, "_capture", lambda work, pool: pytest.fail("captured"))
    replays = replay.Replays(placement)
    prompts: list[Task] = [t for t in next(iter(graph.sweeps())).tasks if t.lane == GPU]
    for task in prompts * 3:  # as in three blocks of the same shape
        replays.run(task, lambda: None)
