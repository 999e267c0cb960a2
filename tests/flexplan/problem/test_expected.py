"""Expected lengths: what the flags, files and numbers say of answers whose length nobody knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flexplan.cli.problem_file import ProblemFile
from flexplan.errors import PromptError, UsageError
from flexplan.problem import Expectation, Problem, Workload, expectation_of
from flexplan.problem.prompts import read_lengths

MODEL = "facebook/opt-125m"


def planned_for(place: Path, most: list[int | None], **flags: Any) -> Workload:
    """The workload of lines that ask for so many tokens."""
    lines = [{"prompt_ids": [1, 2, 3]} | ({} if n is None else {"max_tokens": n}) for n in most]
    (place / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = {"model": MODEL, "prompts": str(place / "in.jsonl"), **flags}
    return ProblemFile.asked(None, asked).problem().workload


@pytest.mark.parametrize("mean", [1, 2, 17.5, 211, 900, 1024])
def test_a_mean_is_that_of_the_lengths_that_stand_for_it(mean: float) -> None:
    lens = expectation_of(mean, 1024).lens
    assert sum(lens) / len(lens) == pytest.approx(mean, rel=0.01, abs=0.2)
    assert list(lens) == sorted(lens) and lens[0] >= 1 and lens[-1] <= 1024


def test_many_lengths_that_were_seen_are_kept_by_their_parts() -> None:
    seen = [n % 100 + 1 for n in range(10_000)] + [700]
    lens = expectation_of(seen, 1024).lens
    assert len(lens) == 1024 and lens[-1] == 700
    assert sum(lens[:-1]) / 1023 == pytest.approx(50.5, rel=0.01)


def test_the_mean_is_of_lines_that_allow_more(tmp_path: Path) -> None:
    work = planned_for(tmp_path, [1024, 1024, 7], gen_len=211)
    assert work.gen_lens == (1024, 1024, 7)
    assert work.model_copy(update={"gen_lens": ()}).new_tokens(1000) == pytest.approx(211_000, rel=0.01)
    assert all(likely <= most for likely, most in zip(work.likely_lens_of(range(3)), work.gen_lens, strict=True))


def test_where_nothing_allows_more_the_number_is_the_most_as_ever(tmp_path: Path) -> None:
    for work in (planned_for(tmp_path, [None, None], gen_len=40), planned_for(tmp_path, [40, None], gen_len=40)):
        assert (work.gen_len, work.expected_lens, work.new_tokens(2)) == (40, (), 80)


def test_the_most_of_lines_that_say_nothing_has_a_flag_of_its_own(tmp_path: Path) -> None:
    work = planned_for(tmp_path, [None, None], gen_len=20, max_new_tokens=300)
    assert work.gen_len == 300 and work.new_tokens(100) == pytest.approx(2000, rel=0.02)


@pytest.mark.parametrize(
    "text", ["5\n9\n9\n200\n", "new_tokens,count\n5,1\n9,2\n200,1\n", "id,new_tokens\na,5\nb,9\nc,9\nd,200\n"]
)
def test_lengths_seen_before_come_from_a_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "seen").write_text(text)
    work = planned_for(tmp_path, [None, 100], gen_lens=str(tmp_path / "seen"))
    assert (work.gen_lens, work.expected_lens) == ((200, 100), (5, 9, 9, 200))
    assert Problem.of(MODEL, gen_len=200, expected={5: 1, 9: 2, 200: 1}).workload.expected_lens == work.expected_lens


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"gen_len": 50}, "no answer may have more than 9"),
        ({"gen_len": 5, "gen_lens": "seen"}, "--gen-lens seen says how long answers are"),
        ({"gen_lens": "none"}, "cannot be read"),
        ({"max_new_tokens": 0}, "greater than or equal to 1"),
        ({"max_new_tokens": 20}, "line 1 asks for 9 new tokens, --max-new-tokens for 20"),
    ],
)
def test_what_contradicts_itself_is_refused(flags: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises((UsageError, PromptError), match=says):
        planned_for(tmp_path, [9] if "max_new_tokens" not in flags or flags["max_new_tokens"] else [None], **flags)


def test_a_table_of_lengths_may_say_what_answers_were_allowed(tmp_path: Path) -> None:
    (tmp_path / "lens.csv").write_text("prompt_tokens,new_tokens,max_tokens\n7,3,50\n9,20,50\n")
    asked = {"model": MODEL, "lengths": str(tmp_path / "lens.csv")}
    work = ProblemFile.asked(None, asked).problem().workload
    assert (work.prompt_lens, work.gen_lens) == ((7, 9), (50, 50)) and work.expected_lens == (3, 20)
    assert read_lengths(tmp_path / "lens.csv").ends == (3, 20)
    (tmp_path / "lens.csv").write_text("prompt_tokens,new_tokens,max_tokens\n7,3,50\n9,60,50\n")
    with pytest.raises(PromptError, match="line 3: 60 new_tokens of max_tokens 50"):
        read_lengths(tmp_path / "lens.csv")


@pytest.mark.parametrize("text", ["", "new_tokens\n", "5\nmany\n", "5\n0\n", "new_tokens,count\n5\n"])
def test_a_file_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "seen").write_text(text)
    with pytest.raises(PromptError, match="FP336"):
        expectation_of(tmp_path / "seen", 100)


def test_answers_are_expected_by_the_prompts_they_were_given_to(tmp_path: Path) -> None:
    lines = [f"{10 if n % 2 else 1000},{5 if n % 2 else 300}" for n in range(100)]
    (tmp_path / "seen").write_text("\n".join(["prompt_tokens,new_tokens", *lines]))
    by_file = Problem.of(MODEL, prompt_lens=(7, 1000, 2, 1500), gen_len=400, expected=tmp_path / "seen").workload
    assert by_file.likely_lens_of(range(4)) == (5, 300, 5, 300) and by_file.new_tokens(4) == 610
    pairs = [(10, 5), (1000, 300)] * 50
    work = Workload.of(prompt_lens=(7, 1000, 2, 1500), gen_len=200, **_fields(expectation_of(pairs, 400)))
    assert work.likely_lens_of(range(4)) == (5, 200, 5, 200)


def _fields(expected: Expectation) -> dict[str, Any]:
    return {"expected_lens": expected.lens, "expected_prompts": expected.prompts}


def test_a_mean_beyond_what_is_allowed_is_refused() -> None:
    with pytest.raises(UsageError, match="FP199"):
        Problem.of(MODEL, gen_len=100, expected=211)
