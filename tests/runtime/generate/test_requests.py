"""Requests in one block that differ in all they ask for: each gets what it gets alone, and as transformers has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from flexplan_runtime.execute import Sampling
from flexplan_runtime.execute.choosing.limits import Limits, draw_probs
from flexplan_runtime.generate import Done, OffloadedLM, Request
from policies import opened
from tiny_models import CONFIGS, saved

from flexplan.errors import PromptError, UsageError
from flexplan.policy import Policy

NEW = 6
PROMPT = [9, 40, 77]
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "drawn": {"sampling": Sampling(True, 1.5, seed=4)},
    "top k": {"sampling": Sampling(True, 2.0, top_k=7)},
    "top p": {"sampling": Sampling(True, 0.7, top_p=0.8)},
    "min p": {"sampling": Sampling(True, 3.0, min_p=0.2)},
    "all": {"sampling": Sampling(True, 1.1, top_k=20, top_p=0.9, min_p=0.05, typical_p=0.9, eta_cutoff=0.01)},
    "own seed": {"sampling": Sampling(True, 2.0), "seed": 77},
    "repetition": {"repetition_penalty": 1.7},
    "presence": {"presence_penalty": 2.0},
    "frequency": {"frequency_penalty": -1.5, "sampling": Sampling(True)},
    "bias": {"logit_bias": {5: 100.0, 6: 99.0}},
    "short": {"max_new_tokens": 2},
    "logprobs": {"logprobs": 3, "sampling": Sampling(True, 2.0)},
    "only the chosen": {"logprobs": 0, "presence_penalty": 1.0},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    place = tmp_path_factory.mktemp("requests") / "model"
    return place, saved(CONFIGS["llama"], place)


@pytest.fixture(scope="module")
def lm(model: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[OffloadedLM]:
    policy = Policy(4, 2, cache_gpu_percent=50.0, cache_cpu_percent=50.0)
    with opened(model[0], policy, tmp_path_factory.mktemp("off")) as found:
        yield found


def done(lm: OffloadedLM, requests: Sequence[Any], **options: Any) -> dict[tuple[int, int], Done]:
    return {(one.index, one.choice): one for one in lm.stream(requests, NEW, **options)}


def test_rows_of_one_block_get_what_each_gets_alone(lm: OffloadedLM) -> None:
    requests = [Request([*PROMPT, n], **setting) for n, setting in enumerate(SETTINGS.values())]
    together = done(lm, requests)
    for n, request in enumerate(requests):
        (alone,) = lm.stream([request], NEW, numbers=[n])
        found = together[n, 0]
        assert (found.token_ids, found.finish_reason) == (alone.token_ids, alone.finish_reason), list(SETTINGS)[n]
        assert (found.logprobs is None) is (alone.logprobs is None) is (request.logprobs is None)
    differing = {found.token_ids[:2] for found in together.values()}
    assert len(differing) > len(SETTINGS) - 4


def test_rows_with_penalties_may_end_before_another_micro_batch_does(lm: OffloadedLM) -> None:
    short = [Request([*PROMPT, n], presence_penalty=1.0, max_new_tokens=2) for n in range(4)]  # a micro-batch of them
    found = done(lm, [*short, PROMPT])
    assert [len(one.token_ids) for _, one in sorted(found.items())] == [2, 2, 2, 2, NEW]


def test_a_row_that_ends_at_the_last_position_may_stand_beside_longer_answers(tiny_opt: Path, tmp_path: Path) -> None:
    with opened(tiny_opt, Policy(2, 1), tmp_path) as lm:  # it learned 512 positions
        requests = [Request([5] * 510, max_new_tokens=3), Request([9, 40], max_new_tokens=9)]
        together = done(lm, requests)
        for n, request in enumerate(requests):
            assert together[n, 0].token_ids == done(lm, [request])[0, 0].token_ids


def test_limits_of_mixed_rows_are_those_of_each_alone() -> None:
    rows = [one["sampling"] for one in SETTINGS.values() if "sampling" in one]
    logits = torch.randn(len(rows), 200, generator=torch.Generator().manual_seed(1)) * 3
    together = draw_probs(logits, Limits.of(rows, logits.device))
    for n, row in enumerate(rows):
        alone = draw_probs(logits[n : n + 1], Limits.of([row], logits.device))
        assert torch.equal(together[n : n + 1], alone)


def test_penalties_and_biases_choose_as_transformers_or_by_hand(lm: OffloadedLM, model: tuple[Path, Any]) -> None:
    ids = torch.tensor([PROMPT])
    expected = model[1].generate(ids, max_new_tokens=NEW, do_sample=False, repetition_penalty=1.7, eos_token_id=None)
    requests = [Request(PROMPT, repetition_penalty=1.7), Request(PROMPT, logit_bias={5: 100.0, 6: 99.0})]
    requests += [Request(PROMPT, presence_penalty=2.0), Request(PROMPT, frequency_penalty=2.0)]
    found = done(lm, requests)
    assert list(found[0, 0].token_ids) == expected[0, 3:].tolist()
    assert set(found[1, 0].token_ids) <= {5, 6}
    for row, by_count in ((2, False), (3, True)):
        tokens = list[int]()
        for _ in range(NEW):
            logits = model[1](torch.tensor([PROMPT + tokens])).logits[0, -1]
            for token in set(tokens):
                logits[token] -= 2.0 * (tokens.count(token) if by_count else 1)
            tokens.append(int(logits.argmax()))
        assert list(found[row, 0].token_ids) == tokens


@torch.no_grad()
def test_logprobs_are_those_of_transformers(lm: OffloadedLM, model: tuple[Path, Any]) -> None:
    """Of the model's own logits, also where penalties and draws choose otherwise."""
    requests = [Request(PROMPT, logprobs=4), Request([*PROMPT, 3], logprobs=2, sampling=Sampling(True, 3.0))]
    requests += [Request(PROMPT), Request([8, 9], logprobs=0, logit_bias={5: 100.0})]
    found = done(lm, requests)
    assert found[2, 0].logprobs is None
    for n, request in enumerate(requests):
        one = found[n, 0]
        if request.logprobs is None:
            continue
        assert one.logprobs is not None and len(one.logprobs) == len(one.token_ids) == NEW
        whole = torch.tensor([[*request.token_ids, *one.token_ids]])
        scores = model[1](whole).logits[0, len(request.token_ids) - 1 : -1].log_softmax(-1)
        for step, (token, told) in enumerate(zip(one.token_ids, one.logprobs, strict=True)):
            assert told.chosen == pytest.approx(float(scores[step, token]), abs=1e-4)
            top = scores[step].topk(request.logprobs)
            assert [t for t, _ in told.top] == top.indices.tolist()
            assert [v for _, v in told.top] == pytest.approx(top.values.tolist(), abs=1e-4)


def test_several_answers_are_drawn_each_for_itself_and_a_seed_fixes_them(lm: OffloadedLM) -> None:
    hot = Sampling(True, 2.0, seed=1)
    one = done(lm, [Request(PROMPT, sampling=hot, n=3), PROMPT, Request(PROMPT, sampling=hot)])
    assert set(one) == {(0, 0), (0, 1), (0, 2), (1, 0), (2, 0)}
    assert len({found.token_ids for found in one.values()}) == 5
    assert one[0, 0].token_ids == done(lm, [Request(PROMPT, sampling=hot)])[0, 0].token_ids  # the first of several
    seeded = [Request(PROMPT, sampling=hot, seed=5, n=2), Request([3, 4]), Request(PROMPT, sampling=hot, seed=5, n=2)]
    two = done(lm, seeded)
    assert two[0, 0].token_ids == two[2, 0].token_ids != two[0, 1].token_ids == two[2, 1].token_ids
    again = done(lm, list(reversed(seeded)), numbers=[11, 12, 13])
    assert again[11, 1].token_ids == two[0, 1].token_ids  # wherever it stands


def test_stop_ids_of_a_request_end_it_alone(lm: OffloadedLM) -> None:
    whole = lm.complete([PROMPT, [*PROMPT, 1]], NEW).tokens
    found = done(lm, [Request(PROMPT, stop_ids=(whole[0][2],)), [*PROMPT, 1]])
    first = whole[0].index(whole[0][2])
    assert (list(found[0, 0].token_ids), found[0, 0].finish_reason) == (whole[0][: first + 1], "stop")
    assert (list(found[1, 0].token_ids), found[1, 0].finish_reason) == (whole[1], "length")


@pytest.mark.parametrize(
    ("wrong", "seen"),
    [
        ({"n": 0}, "n 0"),
        ({"logprobs": 21}, "logprobs 21"),
        ({"max_new_tokens": 0}, "max_new_tokens 0"),
        ({"logit_bias": {99: 1.0}}, "vocabulary of 99"),
        ({"repetition_penalty": 0.0}, "repetition_penalty 0.0"),
        ({"stop": (".",)}, "no tokenizer"),
        ({"stop": "can be"}, r"\('can be',\), and there is no tokenizer"),
        ({"stop": ""}, "a text without characters"),
        ({"stop": ("a", "")}, "a text without characters"),
        ({"stop": 5}, "stop 5, allowed are texts"),
        ({"stop_ids": 5}, "stop_ids 5, allowed are token ids"),
        ({"seed": 1.5}, "seed 1.5"),
        ({"logit_bias": [1]}, "a mapping of token ids"),
        ({"sampling": {"top_k": 1}}, "allowed is a Sampling"),
        ({"n": 1.5}, "n 1.5, allowed are whole numbers"),
        ({"logprobs": True}, "logprobs True"),
        ({"presence_penalty": 5}, "presence_penalty 5"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty inf"),
        ({"logit_bias": {5: float("inf")}}, "logit_bias 5: inf"),
        ({"n": 3}, "one answer 3 times"),
        ({"n": 3, "sampling": Sampling(seed=1)}, "one answer 3 times"),
        ({"max_new_tokens": 39}, "3 tokens + 39 new"),
    ],
)
def test_what_cannot_be_honoured_is_refused_at_once(wrong: dict[str, Any], seen: str, lm: OffloadedLM) -> None:
    with pytest.raises(PromptError, match=seen.replace("+", r"\+")):
        lm.stream([PROMPT, Request(PROMPT, **wrong)], NEW)
    if "stop" in wrong:
        with pytest.raises(PromptError, match="prompt 1"):
            lm.complete([PROMPT, Request(PROMPT, **wrong)], NEW)


def test_settings_of_draws_without_draws_are_refused() -> None:
    for idle in ({"temperature": 1.0}, {"top_k": 3}, {"min_p": 0.1}):
        with pytest.raises(UsageError, match=f"{next(iter(idle))} .* without do_sample would change nothing"):
            Sampling(**idle)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("requests", "options", "seen"),
    [
        ("hello", {}, "requests are str"),
        (["hello"], {}, "request 0 is str, 'hello'"),
        ([9, 40], {}, "request 0 is int, 9"),
        ([[9, 1.5]], {}, "request 0 is made of float"),
        ([{"prompt": "x"}], {}, "request 0 is dict"),
        ((row for row in [PROMPT]), {}, "requests are generator"),
        ([PROMPT], {"max_new_tokens": 0}, "max_new_tokens 0"),
        ([PROMPT], {"max_new_tokens": 1.5}, "max_new_tokens is 1.5"),
        ([PROMPT], {"max_new_tokens": True}, "max_new_tokens is True"),
        ([PROMPT], {"max_new_tokens": [1.5]}, "max_new_tokens is .1.5"),
        ([PROMPT, PROMPT], {"numbers": [4, 4]}, "2 places, 1 of them different, for 2 requests"),
        ([PROMPT, PROMPT], {"numbers": [4]}, "1 places"),
    ],
)
def test_what_is_no_request_is_refused_by_name(requests: Any, options: Any, seen: str, lm: OffloadedLM) -> None:
    with pytest.raises(PromptError, match=seen):
        lm.stream(requests, **options)
