"""What a plan is to be best at, in words and in flags."""

from __future__ import annotations

import pytest

from flexplan.errors import PolicyError, UsageError
from flexplan.policy import Policy, allowed_fields, field_names, lossy_fields, names_of
from flexplan.policy.lossy import LOSSY
from flexplan.problem import Objective, Problem


def test_the_text_form_and_the_flags_say_the_same() -> None:
    assert Objective.of() == Objective.of("throughput") == Objective()
    assert Objective.of("latency:2.5") == Objective.of(max_latency=2.5)
    assert Objective.of("memory:40") == Objective.of(min_throughput=40.0)
    assert Objective.of("latency:9", min_throughput=4.0) == Objective(max_latency_s=9.0, min_tokens_per_s=4.0)


@pytest.mark.parametrize(
    "text", ["speed", "latency", "latency:", "latency:soon", "memory:-1", "latency:0", "latency:nan"]
)
def test_other_words_are_refused_with_those_that_are_known(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Objective.of(text)
    assert caught.value.code == "FP114"


def test_a_flag_that_says_otherwise_is_refused() -> None:
    with pytest.raises(UsageError, match="two things"):
        Objective.of("latency:60", max_latency=30.0)


def test_a_problem_takes_words_and_keeps_them_in_its_file() -> None:
    asked = Problem.of("facebook/opt-125m", objective="latency:60")
    assert asked.objective.max_latency_s == 60
    assert Problem.model_validate_json(asked.model_dump_json()) == asked


def test_it_speaks() -> None:
    assert [Objective.of(text).bounded for text in ("throughput", "latency:1", "memory:1")] == [False, True, True]
    assert str(Objective()) == "the most tokens per second"
    assert str(Objective.of("memory:40", max_latency=3.0)) == (
        "the least memory for 40 tokens per second, a block within 3 s"
    )


# -- what changes tokens -----------------------------------------------------------------------------------------
def test_lossy_names_stand_for_policy_fields() -> None:
    assert set(LOSSY.values()) <= set(field_names())


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        allowed_fields(["4bit-weight"])
    assert caught.value.fix == "did you mean 4bit-weights?"


@pytest.mark.parametrize("text", ["sparse", "sparse:", "sparse:few", "4bit-cache:0.1"])
def test_a_share_is_given_for_sparse_attention_and_for_nothing_else(text: str) -> None:
    with pytest.raises(UsageError, match=text):
        allowed_fields([text])


@pytest.mark.parametrize("share", ["0", "1.5", "nan"])
def test_a_share_that_no_policy_takes_is_refused(share: str) -> None:
    with pytest.raises(PolicyError, match="attn_sparsity"):
        allowed_fields([f"sparse:{share}"])


@pytest.mark.parametrize("names", [[], ["4bit-weights"], ["4bit-cache", "sparse:0.25"]])
def test_what_is_allowed_is_what_a_policy_then_shows(names: list[str]) -> None:
    fields = allowed_fields(names)
    assert set(fields) <= set(LOSSY.values())
    assert lossy_fields(Policy(**fields)) == fields
    assert names_of(fields) == names
