"""What the search planner adds to the linear program's proposals."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from flexplan_planners.search_planner import SearchPlanner, judged, least_of_phases, otherwise_split, wider
from problems import problem, shape

from flexplan import Plan, Policy, Problem
from flexplan.errors import PolicyError
from flexplan.report.tables import policy_lines
from flexplan.sandbox import schedule_of
from flexplan.simulation import PHASES, Forecast, PhaseName

CASES = [("facebook/opt-13b", "12G", "110G"), ("facebook/opt-6.7b", "8G", "110G"), ("facebook/opt-30b", "16G", "110G")]


@pytest.mark.parametrize(("model", "gpu_mem", "cpu_mem"), CASES)
def test_the_best_block_is_tried_with_its_layers_whole_and_in_halves(model: str, gpu_mem: str, cpu_mem: str) -> None:
    problem = Problem.of(model, gpu_mem=gpu_mem, cpu_mem=cpu_mem, hardware="h200-pcie5")
    planner = SearchPlanner()
    ranking = planner.ranking(problem)
    best = ranking[0].policy
    block = best.gpu_batch_size, best.num_gpu_batches
    alike = [c for c in ranking if (c.policy.gpu_batch_size, c.policy.num_gpu_batches) == block]
    same_kind = [c for c in alike if c.policy.cpu_cache_compute == best.cpu_cache_compute]
    other = otherwise_split(planner.proposer.model(problem), ranking[0].optimum, None)
    ruled_out = other is None or other.seconds_per_prompt > ranking[0].seconds_per_prompt  # by a lower bound
    assert {c.policy.sep_layer for c in same_kind} == {True, False} or ruled_out


def test_halves_are_left_alone_where_they_are_not_to_be() -> None:
    problem = Problem.of("facebook/opt-13b", gpu_mem="12G", cpu_mem="110G", hardware="h200-pcie5")
    ranking = SearchPlanner(sep_layer=(False,)).ranking(problem)
    assert ranking and not any(c.policy.sep_layer for c in ranking)


def test_layers_whose_halves_stand_side_by_side_stay_whole() -> None:
    parallel = shape(parallel=True)
    asked = problem(model=parallel, gpu=4)
    assert not any(c.policy.sep_layer for c in SearchPlanner().ranking(asked))
    room = problem(model=parallel, gpu=40)
    by_hand = Plan.of(room, Policy(2, 2))
    assert "sep_layer off" in policy_lines(by_hand)[-1]
    assert "sep_layer on" in policy_lines(Plan.of(problem(gpu=40), Policy(2, 2)))[-1]
    halves = Policy(2, 2, sep_layer=True)
    for wrong in (lambda: SearchPlanner(sep_layer=(True,)).plan(asked), lambda: Plan.of(asked, halves)):
        with pytest.raises(PolicyError, match=r"FP218.*side by side"):
            wrong()


def test_a_block_that_would_be_late_is_not_proposed_in_halves_either() -> None:
    problem = Problem.of("facebook/opt-13b", gpu_mem="12G", cpu_mem="110G", hardware="h200-pcie5")
    planner = SearchPlanner()
    best = planner.ranking(problem)[0]
    assert otherwise_split(planner.proposer.model(problem), best.optimum, None) is not None
    sooner = problem.objective.model_copy(update={"max_latency_s": 0.5 * best.prediction.total_s})
    hurried = problem.model_copy(update={"objective": sooner})
    assert otherwise_split(planner.proposer.model(hurried), best.optimum, None) is None


def test_the_block_of_the_best_is_tried_in_few_micro_batches() -> None:
    problem = Problem.of("facebook/opt-66b", gpu_mem="16G", cpu_mem="200G", hardware="h200-pcie5")
    sizes = [4, 6, 8, 12, 16, 24, 32, 48]
    best = SearchPlanner().ranking(problem)[0].optimum
    many = replace(best, program=replace(best.program, gpu_batch_size=6), num_gpu_batches=12)
    assert wider(many, sizes) == [12, 18, 24, 36]
    assert wider(replace(many, num_gpu_batches=2), sizes) == [12, 24]


def test_no_more_micro_batches_than_the_fixed_times_of_tasks_are_worth() -> None:
    problem = Problem.of("facebook/opt-30b", gpu_mem="16G", cpu_mem="110G", hardware="h200-pcie5")
    ranking = SearchPlanner().ranking(problem)
    best, fewer = ranking[0].policy, [c for c in ranking if c.num_tasks < ranking[0].num_tasks]
    assert best.num_gpu_batches <= 10
    assert fewer and all(c.seconds_per_prompt > 1.008 * ranking[0].seconds_per_prompt for c in fewer)
    at_once = problem.hardware.model_copy(update={"copy_s": 1e-6, "host_task_s": 1e-6})
    swift = SearchPlanner().ranking(problem.model_copy(update={"hardware": at_once}))[0].policy
    assert swift.num_gpu_batches > best.num_gpu_batches


def test_a_proposal_is_simulated_until_it_is_known_to_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, asked = Problem.of("facebook/opt-6.7b", gpu_mem="8G", cpu_mem="110G", hardware="h200-pcie5"), list[str]()
    best = SearchPlanner().ranking(problem)[0]
    seconds = Forecast.seconds

    def counted(self: Forecast, phase: PhaseName) -> float:
        asked.append(phase)
        return seconds(self, phase)

    monkeypatch.setattr(Forecast, "seconds", counted)
    given = problem, best.optimum, best.policy, schedule_of("zigzag")
    whole, least = judged(*given, inf), least_of_phases(best.optimum)
    assert sorted(asked) == sorted(PHASES) and whole.seconds_per_prompt == pytest.approx(best.seconds_per_prompt)
    assert sum(least.values()) <= 1.01 * whole.prediction.total_s
    asked.clear()
    slow = judged(*given, 0.5 * whole.seconds_per_prompt)
    assert asked == [max(least, key=lambda phase: least[phase])]
    assert 0.5 * whole.seconds_per_prompt < slow.seconds_per_prompt <= 1.01 * whole.seconds_per_prompt
