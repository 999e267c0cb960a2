"""What the search planner adds to the linear program's proposals."""

from __future__ import annotations

import pytest
from flexplan_planners.search import SearchPlanner, otherwise_split

from flexplan import Problem

CASES = [("facebook/opt-13b", "12G", "110G"), ("facebook/opt-6.7b", "8G", "110G"), ("facebook/opt-30b", "16G", "110G")]


@pytest.mark.parametrize(("model", "gpu_mem", "cpu_mem"), CASES)
def test_the_best_block_is_tried_with_its_layers_whole_and_in_halves(model: str, gpu_mem: str, cpu_mem: str) -> None:
    problem = Problem.of(model, gpu_mem=gpu_mem, cpu_mem=cpu_mem, hardware="h200-pcie5")
    ranking = SearchPlanner().ranking(problem)
    best = ranking[0].policy
    block = best.gpu_batch_size, best.num_gpu_batches
    alike = [c for c in ranking if (c.policy.gpu_batch_size, c.policy.num_gpu_batches) == block]
    same_kind = [c for c in alike if c.policy.cpu_cache_compute == best.cpu_cache_compute]
    assert {c.policy.sep_layer for c in same_kind} == {True, False}


def test_halves_are_left_alone_where_they_are_not_to_be() -> None:
    problem = Problem.of("facebook/opt-13b", gpu_mem="12G", cpu_mem="110G", hardware="h200-pcie5")
    ranking = SearchPlanner(sep_layer=(False,)).ranking(problem)
    assert ranking and not any(c.policy.sep_layer for c in ranking)


def test_a_block_that_would_be_late_is_not_proposed_in_halves_either() -> None:
    problem = Problem.of("facebook/opt-13b", gpu_mem="12G", cpu_mem="110G", hardware="h200-pcie5")
    planner = SearchPlanner()
    best = planner.ranking(problem)[0]
    assert otherwise_split(planner.proposer.model(problem), best.optimum, None) is not None
    sooner = problem.objective.model_copy(update={"max_latency_s": 0.5 * best.prediction.total_s})
    hurried = problem.model_copy(update={"objective": sooner})
    assert otherwise_split(planner.proposer.model(hurried), best.optimum, None) is None
