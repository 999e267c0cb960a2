"""Prompts of many lengths: a few blocks stand for all of them."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from flexplan_planners.schedules.zigzag import ZigZag

from flexplan.hardware import hardware_from
from flexplan.policy import Policy, fill_blocks
from flexplan.problem import Problem, Workload
from flexplan.problem.ragged import envelope, padded_mean, representatives, typical_lens
from flexplan.simulation import peak_bytes, predict
from flexplan.testing import policy_with

POLICY = policy_with(4, 2, w=(40, 60), cache=(50, 50), act=(100, 0), sep_layer=False)


def ragged(num_prompts: int, ordered: bool = False) -> Workload:
    dice = random.Random(0)
    lens = [min(200, 8 + int(dice.expovariate(1 / 40))) for _ in range(num_prompts)]
    return Workload(prompt_lens=tuple(sorted(lens) if ordered else lens), gen_len=4)


def padded(workload: Workload, policy: Policy) -> Counter[tuple[int, ...]]:
    blocks = fill_blocks(workload, policy)
    return Counter(tuple(b.prompt_len for b in block.batches for _ in b.rows) for block in blocks)


def test_prompts_of_one_length_are_one_block() -> None:
    work = Workload(prompt_len=7, num_prompts=40)
    assert typical_lens(work, 3) == (7, 7, 7)
    assert padded_mean(work, 4, 2) == 7


def test_representatives_stand_for_as_many_blocks_and_tokens() -> None:
    shapes = padded(ragged(203), POLICY)
    few = representatives(shapes, len, sum)
    assert len(few) <= 4 < len(shapes)  # three full blocks, and the last
    assert few.keys() <= shapes.keys()
    assert sum(few.values()) == pytest.approx(sum(shapes.values()))
    tokens = [sum(sum(lens) * n for lens, n in counts.items()) for counts in (few, shapes)]
    assert tokens[0] == pytest.approx(tokens[1])


def test_a_few_blocks_are_all_there_is_to_stand_for() -> None:
    shapes = Counter({(4, 4): 9, (3,): 1})
    assert representatives(shapes, len, sum) == {(4, 4): 9.0, (3,): 1.0}


@pytest.mark.parametrize("ordered", [False, True])
def test_the_prediction_of_many_ragged_blocks_is_that_of_each_added_up(ordered: bool) -> None:
    problem = Problem.of("facebook/opt-125m", hardware="t4-gcp").model_copy(update={"workload": ragged(160, ordered)})
    seconds = 0.0
    for lens, times in padded(problem.workload, POLICY).items():
        alone = problem.model_copy(update={"workload": Workload(prompt_lens=lens, gen_len=4)})
        seconds += times * predict(alone, POLICY, ZigZag()).total_s
    assert predict(problem, POLICY, ZigZag()).total_s == pytest.approx(seconds, rel=0.02)


def test_padding_to_the_longest_of_all_would_be_far_off() -> None:
    at_once = hardware_from("t4-gcp").model_copy(update={"copy_s": 1e-6})
    problem = Problem.of("facebook/opt-125m", hardware=at_once).model_copy(update={"workload": ragged(160)})
    longest = Workload(prompt_len=max(problem.workload.prompt_lens), num_prompts=160, gen_len=4)
    apart = [predict(problem.model_copy(update={"workload": w}), POLICY, ZigZag()) for w in (problem.workload, longest)]
    assert apart[1].prefill_s > 1.3 * apart[0].prefill_s


def test_bytes_are_enough_for_every_block() -> None:
    problem = Problem.of("facebook/opt-125m").model_copy(update={"workload": ragged(160)})
    need = peak_bytes(problem, POLICY, ZigZag())
    for lens in padded(problem.workload, POLICY):
        alone = problem.model_copy(update={"workload": Workload(prompt_lens=lens, gen_len=4)})
        for tier, nbytes in peak_bytes(alone, POLICY, ZigZag()).items():
            assert nbytes <= need[tier]


def test_an_envelope_is_nowhere_shorter() -> None:
    shapes = list(padded(ragged(90), POLICY))
    for holder in envelope(shapes):
        alike = [lens for lens in shapes if len(lens) == len(holder)]
        assert all(a <= b for lens in alike for a, b in zip(lens, holder, strict=True))
        assert holder == tuple(map(max, *alike)) if len(alike) > 1 else holder == alike[0]
