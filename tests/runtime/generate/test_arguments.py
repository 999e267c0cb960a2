"""Whatever is given to a call in the place of an argument: it is run, or refused by name, and nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch
from flexplan_runtime.execute import Sampling
from flexplan_runtime.generate import OffloadedLM, Request
from policies import opened
from tiny_models import CONFIGS, saved

from flexplan.errors import FlexplanError
from flexplan.policy import Policy

PROMPTS = [[9, 40, 77], [3, 8]]
THINGS: list[Any] = [None, True, 1.5, -1, 5, 10**30, float("nan"), "x", b"x", [], [1.5], ["x"], [None], [[1]], [True]]
THINGS += [[10**30], {}, {"a": 1}, set(), object(), torch.tensor(3), torch.tensor([3, 4]), torch.tensor([[3, 4]])]
Call = Callable[..., object]
CALLS: dict[str, Call] = {
    "stream": lambda lm, **given: list(lm.stream(**{"requests": PROMPTS, "max_new_tokens": 1} | given)),
    "complete": lambda lm, **given: lm.complete(**{"prompts": PROMPTS, "max_new_tokens": 1} | given),
    "generate": lambda lm, **given: lm.generate(**{"input_ids": PROMPTS, "max_new_tokens": 1} | given),
    "score": lambda lm, **given: lm.score(**{"sequences": PROMPTS} | given),
    "stream_scores": lambda lm, **given: list(lm.stream_scores(**{"sequences": PROMPTS} | given)),
}
NAMES = [(call, name) for call in CALLS for name in [*inspect.signature(getattr(OffloadedLM, call)).parameters][1:]]


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OffloadedLM]:
    place = tmp_path_factory.mktemp("model")
    saved(CONFIGS["llama"], place / "model")
    with opened(place / "model", Policy(2, 1), place) as found:
        yield found


def refused(name: str, act: Callable[[Any], object]) -> int:
    """How many things are, each by this name."""
    count = 0
    for thing in THINGS:
        try:
            act(thing)
        except FlexplanError as error:
            count += 1
            said = f"{error.message} {error.fix}"
            assert name in said or "prompt" in said or "request" in said or "sequence" in said, (name, thing, said)
        except Exception as error:
            raise AssertionError(f"{name}={thing!r}") from error
    return count


@pytest.mark.parametrize(("call", "name"), NAMES)
def test_an_argument_of_a_wrong_kind_is_refused_by_name(call: str, name: str, lm: OffloadedLM) -> None:
    assert refused(name, lambda thing: CALLS[call](lm, **{name: thing})) >= len(THINGS) - 7


@pytest.mark.parametrize("name", [field.name for field in fields(Request)])
def test_so_is_a_field_of_a_request(name: str, lm: OffloadedLM) -> None:
    def run(thing: Any) -> None:
        list(lm.stream([Request(**{"token_ids": [2, 5], name: thing})], 1))

    assert refused(name, run) >= len(THINGS) - 7


@pytest.mark.parametrize("name", [field.name for field in fields(Sampling)])
def test_so_is_a_setting_of_draws(name: str, lm: OffloadedLM) -> None:
    def run(thing: Any) -> None:
        lm.complete(PROMPTS, 1, sampling=Sampling(**{"do_sample": True, name: thing}))

    assert refused(name, run) >= len(THINGS) - 7
