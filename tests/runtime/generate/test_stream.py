"""`OffloadedLM.stream`: prompts come when they have ended, with the tokens of `complete`; it may be stopped or left."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flexplan_runtime.execute import Sampling
from flexplan_runtime.generate import Done, OffloadedLM
from injectors import flexplan_threads
from policies import opened
from tiny_models import CONFIGS, saved

from flexplan.errors import PromptError, UsageError
from flexplan.policy import Policy

PROMPTS = [[9, 40, 77], [3, 8, 61], [50, 51], [7, 8, 7, 8, 9], [13], [5, 6]]
NEW = 6


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OffloadedLM]:
    place = tmp_path_factory.mktemp("model")
    saved(CONFIGS["llama"], place / "model")
    with opened(place / "model", Policy(2, 2), place) as found:
        yield found


def test_every_prompt_comes_once_with_the_tokens_of_complete(lm: OffloadedLM) -> None:
    whole = lm.complete(PROMPTS, NEW)
    done = list(lm.stream(PROMPTS, NEW))
    assert sorted(one.index for one in done) == list(range(len(PROMPTS)))
    assert all(one == Done(one.index, tuple(whole.tokens[one.index]), "length") for one in done)


def test_each_prompt_ends_at_its_own_most_tokens(lm: OffloadedLM) -> None:
    whole, most = lm.complete(PROMPTS, NEW).tokens, [3, NEW, 1, 2, 5, 1]
    assert lm.complete(PROMPTS, most).tokens == [row[:n] for row, n in zip(whole, most, strict=True)]
    ended = [one.index for one in lm.stream(PROMPTS, most)]
    assert ended[0] == 2, "the shortest answer of the first block comes first"
    with pytest.raises(PromptError, match="5 numbers, there are 6 prompts"):
        lm.complete(PROMPTS, most[:5])


def test_a_prompt_that_stops_comes_before_its_block_has_ended(lm: OffloadedLM) -> None:
    """The second token of a row is declared the end: it comes while the block's other rows are at work."""
    whole = lm.complete(PROMPTS[:4], NEW).tokens
    stop = whole[2][1]
    seen: list[int] = []  # tokens of the block when each came
    counted = [0]
    for one in lm.stream(PROMPTS[:4], NEW, stops=(stop,), progress=lambda n, _: counted.__setitem__(0, n)):
        seen.append(counted[0])
        if one.index == 2:
            assert (one.finish_reason, one.token_ids[-1]) == ("stop", stop)
    assert seen == sorted(seen) and seen[0] < seen[-1]


def test_a_part_of_the_input_draws_as_in_the_whole(lm: OffloadedLM) -> None:
    drawn = Sampling(do_sample=True, temperature=2.0, seed=5)
    whole = lm.complete(PROMPTS, NEW, sampling=drawn).tokens
    part = [4, 1, 5]
    done = {
        one.index: list(one.token_ids)
        for one in lm.stream([PROMPTS[n] for n in part], NEW, sampling=drawn, numbers=part)
    }
    assert done == {n: whole[n] for n in part}
    alone = {one.index: list(one.token_ids) for one in lm.stream([PROMPTS[n] for n in part], NEW, sampling=drawn)}
    assert [alone[n] for n in range(3)] != [whole[n] for n in part]


def test_stopping_finishes_the_pass_in_flight_and_leaves_the_rest_out(lm: OffloadedLM) -> None:
    passes: list[int] = []
    asked_at = 3

    done = list(
        lm.stream(PROMPTS, NEW, progress=lambda n, _: passes.append(n), stopping=lambda: len(passes) >= asked_at)
    )
    assert done == [] and len(passes) == asked_at + 1  # and the one in flight
    first = list(lm.stream(PROMPTS, NEW, stopping=iter([False] * (NEW + 1) + [True] * 9).__next__))
    assert {one.index for one in first} == {0, 1, 2, 3}  # a block, not the next one
    assert list(lm.stream(PROMPTS, NEW, stopping=lambda: True)) == []


def test_an_iterator_that_is_left_gives_the_turn_back(lm: OffloadedLM) -> None:
    for _ in range(2):
        for _ in lm.stream(PROMPTS, NEW):
            break
        gc.collect()
        assert flexplan_threads() == []
    assert len(lm.complete(PROMPTS, NEW).tokens) == len(PROMPTS)


def test_a_call_from_inside_its_loop_is_refused_and_another_thread_waits(lm: OffloadedLM) -> None:
    found: list[int] = []
    other = threading.Thread(target=lambda: found.append(len(lm.complete(PROMPTS, NEW).tokens)))
    for n, _ in enumerate(lm.stream(PROMPTS, NEW)):
        if n == 0:
            other.start()
            with pytest.raises(UsageError, match="inside a call"):
                lm.complete(PROMPTS, NEW)
        assert found == []
    other.join(60)
    assert found == [len(PROMPTS)]


def test_leaving_a_model_ends_an_iterator_that_is_held(tmp_path: Path) -> None:
    saved(CONFIGS["llama"], tmp_path / "model")
    answers = None
    with (
        pytest.raises(KeyError, match="mine"),
        opened(tmp_path / "model", Policy(2, 2), tmp_path) as lm,
    ):
        answers = lm.stream(PROMPTS, NEW)
        for _ in answers:
            raise KeyError("mine")
    assert answers is not None and flexplan_threads() == []
    with (
        pytest.raises(KeyError, match="of two"),
        opened(tmp_path / "model", Policy(2, 2), tmp_path) as lm,
        OffloadedLM(tmp_path / "model", lm.env, tmp_path / "model", Policy(2, 2)),
    ):
        held = lm.stream(PROMPTS, NEW)
        next(held)
        raise KeyError("of two")
    with pytest.raises(UsageError, match="the model is closed"):
        next(answers)
    with opened(tmp_path / "model", Policy(2, 2), tmp_path) as lm:
        answers = lm.stream(PROMPTS, NEW)
        next(answers)
    assert flexplan_threads() == []


def test_what_cannot_be_run_is_refused_when_it_is_asked_for(lm: OffloadedLM) -> None:
    with pytest.raises(PromptError, match="no tokens"):
        lm.stream([[1], []], NEW)


def test_a_prompt_without_numbers_comes_as_an_error(lm: OffloadedLM, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Sampling.choose

    def broken(self: Sampling, logits: object, rows: list[int], step: int) -> object:
        chosen = real(self, logits, rows, step)  # type: ignore[arg-type]
        return chosen.masked_fill(chosen.new_tensor([row == 3 and step == 2 for row in rows]).bool(), -1)

    monkeypatch.setattr(Sampling, "choose", broken)
    done = {one.index: one for one in lm.stream(PROMPTS, NEW)}
    assert (done[3].finish_reason, len(done[3].token_ids)) == ("error", 2)
    assert all(len(done[n].token_ids) == NEW for n in range(6) if n != 3)
