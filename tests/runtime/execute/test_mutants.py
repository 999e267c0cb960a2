"""No graph with one thing changed that the proof accepts computes other tokens, or breaks down with an odd error."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flexplan_planners.schedules.rowwise import RowWise
from flexplan_planners.schedules.zigzag import ZigZag
from flexplan_runtime import OffloadedLM
from flexplan_runtime.generate import blocks
from mutations import Mutated
from policies import Case, covering, opened, text_prompts

from flexplan.errors import FlexplanError, GraphError, PluginError
from flexplan.placement import Placement
from flexplan.policy import fill_blocks
from flexplan.problem import Problem, Workload
from flexplan.proof import prove
from flexplan.sandbox import schedule_of
from flexplan.schedule import placement_of

POLICIES = 60
MUTANTS = int(os.environ.get("FLEXPLAN_MUTANTS", "300")) // POLICIES
SCHEDULES = {"zigzag": ZigZag, "rowwise": RowWise}
GEN_LEN = 8  # the sixth pass is the first that may repeat the ones before
SHARDS = 4


def cases() -> list[Case]:
    """Policies of every kind; each fifth of them packs, streams beside the host's attention or chooses values."""
    found = covering(POLICIES, seed=17, gpu_batch_size=(1, 2), num_gpu_batches=(2, 3, 4), fill=("full", "partial"))
    rng = random.Random(17)
    return [replace(case, policy=_switched(case.policy, rng), gen_len=GEN_LEN) for case in found]


def _switched(policy: Any, rng: random.Random) -> Any:
    switches: list[dict[str, Any]] = [{"compress_weight": True}, {"compress_cache": True}]
    if policy.cpu_cache_compute:
        switches.append({"cache_stream_percent": 50.0})
    if not policy.cache_disk_percent:
        switches.append({"attn_sparsity": 0.4})
    return replace(policy, **rng.choice(switches)) if rng.random() < 0.4 else policy


def accepted(lm: OffloadedLM, schedule: Mutated, prompts: Sequence[Sequence[int]]) -> bool:
    """What the proof says of the graph of the very block that runs."""
    workload = Workload(prompt_lens=tuple(map(len, prompts)), gen_len=GEN_LEN)
    problem = Problem(model=lm.shape, hardware=lm._calls.planner._here(), workload=workload)
    try:
        graph = schedule_of(schedule).build(problem, lm.policy)
        prove(graph, placement_of(graph, lm.shape, lm.policy, next(fill_blocks(workload, lm.policy))))
    except (GraphError, PluginError):
        return False
    return True


@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_mutant_that_is_accepted_computes_other_tokens(
    tiny_opt: Path, tmp_path: Path, shard: int, record_property: Any
) -> None:
    prompts, counts, wrong = text_prompts(tiny_opt), Counter[str](), []
    for n, case in list(enumerate(cases()))[shard::SHARDS]:
        given, schedule = prompts[: case.num_prompts], SCHEDULES[case.schedule]()
        with opened(tiny_opt, case.policy, tmp_path / str(n), deadline_s=20) as lm:
            lm._calls.planner.schedule = schedule
            right = lm.generate(given, max_new_tokens=GEN_LEN)
            for m in range(MUTANTS):
                mutant = Mutated(schedule, 1000 * n + m)
                lm._calls.planner.schedule = schedule_of(mutant)
                passed = accepted(lm, mutant, given)
                counts["accepted" if passed else "refused"] += 1
                if passed and mutant.what == "nothing":
                    continue
                try:
                    if passed or m % 20 == 0:  # what is refused is refused by the runtime, too
                        same = lm.generate(given, max_new_tokens=GEN_LEN).equal(right)
                        if not passed or not same:
                            wrong.append((str(case), mutant.what, "ran" if same else "other tokens"))
                except FlexplanError as error:
                    if passed or not isinstance(error, (GraphError, PluginError)):
                        wrong.append((str(case), mutant.what, repr(error)))
    record_property("counts", dict(counts))
    print(dict(counts))
    assert not wrong
    assert counts["accepted"] > 0.02 * counts.total()


def test_without_the_proof_mutants_compute_other_tokens(
    tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above holds is not true by itself: of what is refused, some would have run and been wrong."""
    prompts, wrong = text_prompts(tiny_opt), 0
    monkeypatch.setattr(blocks, "proved", lambda graph, _: graph)
    monkeypatch.setattr(blocks, "placement_of", _unproved)
    for n, case in enumerate(cases()[:12]):
        given, schedule = prompts[: case.num_prompts], SCHEDULES[case.schedule]()
        right = None
        for m in range(4):
            with opened(tiny_opt, case.policy, tmp_path / f"{n}.{m}", deadline_s=5) as lm:
                lm._calls.planner.schedule = schedule
                right = lm.generate(given, max_new_tokens=GEN_LEN) if right is None else right
                mutant = Mutated(schedule, 1000 * n + m)
                lm._calls.planner.schedule = schedule_of(mutant)
                if accepted(lm, mutant, given):
                    continue
                try:
                    wrong += not lm.generate(given, max_new_tokens=GEN_LEN).equal(right)
                except Exception:  # an honest break-down is no wrong token
                    continue
    assert wrong >= 5


def _unproved(graph: Any, shape: Any, policy: Any, block: Any) -> Placement:
    return Placement.of(shape, policy, block, min(graph.live, 99) if isinstance(graph.live, int) else None)
