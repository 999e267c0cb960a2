"""How long the prompts of a file are."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from flexplan.errors import PromptError, UsageError
from flexplan.problem.prompts import Prompt
from flexplan.problem.prompts.lengths import lengths, prompt_lens
from flexplan.problem.prompts.tokenizer_file import bounded, chunks


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """One token a word, and one that stands before all."""
    tokenizers = pytest.importorskip("tokenizers")
    words = {"<s>": 0, "<unk>": 1, "one": 2, "two": 3}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made.enable_truncation(3)
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_token_ids_need_no_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt_ids": [5, 6, 7]}\n[1]\n')
    assert prompt_lens(path) == (3, 1)


def test_text_is_counted_as_the_model_will_read_it(tokenizer: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "one two one two one"}\n{"prompt_ids": [5]}\n{"prompt": "three"}\n')
    assert prompt_lens(path, tokenizer) == (6, 1, 2)
    assert prompt_lens(path, tokenizer / "tokenizer.json") == (6, 1, 2)


@pytest.mark.parametrize("given", [None, "facebook/opt-125m", "empty"])
def test_text_without_a_tokenizer_is_refused(tmp_path: Path, given: str | None) -> None:
    (tmp_path / "in.txt").write_text("hello\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError) as caught:
        prompt_lens(tmp_path / "in.txt", tmp_path / given if given == "empty" else given)
    assert caught.value.code == "FP117"
    assert "--tokenizer" in caught.value.fix


def test_a_tokenizer_that_does_not_load_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    (tmp_path / "in.txt").write_text("hello\n")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match="does not load"):
        prompt_lens(tmp_path / "in.txt", tmp_path)


def test_no_prompts_are_nothing_to_plan_for(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("\n")
    with pytest.raises(PromptError, match="no prompts"):
        prompt_lens(tmp_path / "in.txt")


def test_of_very_many_prompts_every_length_is_known(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps([0] * (400 if n == 30_001 else 12)) for n in range(40_000)))
    found = prompt_lens(tmp_path / "in.jsonl")
    assert (len(found), max(found)) == (40_000, 400)


@pytest.mark.parametrize(
    ("part", "seen"),
    [
        ({"normalizer": {"type": "Replace", "pattern": {"String": "o"}, "content": "o" * 5000}}, "normalizer makes"),
        (
            {
                "normalizer": {
                    "type": "Sequence",
                    "normalizers": [{"type": "Replace", "pattern": {"String": "o"}, "content": "o" * 100}] * 3,
                }
            },
            "normalizer makes",
        ),
        (
            {
                "pre_tokenizer": {
                    "type": "Split",
                    "pattern": {"Regex": "(("},
                    "behavior": "Isolated",
                    "invert": False,
                }
            },
            "does not load",
        ),
        ({"model": []}, "does not load"),
    ],
)
def test_a_tokenizer_that_harms_is_refused_by_name(
    tokenizer: Path, tmp_path: Path, part: dict[str, Any], seen: str
) -> None:
    file = tokenizer / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | part))
    (tmp_path / "in.txt").write_text("one two\n")
    with pytest.raises(UsageError, match=seen):
        prompt_lens(tmp_path / "in.txt", tokenizer)


def test_a_library_that_panics_or_never_ends_is_an_error() -> None:
    class PanicException(BaseException):
        """As that of a library in Rust."""

    def panic() -> None:
        raise PanicException("index out of bounds")

    with pytest.raises(ValueError, match="index out of bounds"):
        bounded(panic)
    never = threading.Event()
    with pytest.raises(TimeoutError, match="did not end within"):
        bounded(never.wait, 0.05)
    never.set()


def test_prompts_are_read_in_chunks_that_take_no_tokenizer_long() -> None:
    prompts = [Prompt(n, "a" * size, n + 1) for n, size in enumerate([3, 700_000, 400_000, 2_000_000, *[1] * 1500])]
    found = [list(few) for few in chunks(prompts)]
    assert [prompt for few in found for prompt in few] == prompts
    assert [len(few) for few in found] == [2, 1, 1, 1000, 500]
    assert list(chunks([])) == []


def test_the_prompt_that_a_tokenizer_fails_on_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Encoding:
        ids = (1, 2)

    class Fragile:
        def encode_batch(self, texts: list[str]) -> list[Encoding]:
            if "bad" in texts:
                raise BaseException("called unwrap on None")
            return [Encoding()] * len(texts)

    monkeypatch.setattr("flexplan.problem.prompts.lengths._open", lambda _: (Fragile(), 100))
    good = [Prompt(n, "good", n + 1) for n in range(5)]
    assert lengths(good, "there") == (2,) * 5
    with pytest.raises(UsageError, match="line 6: the tokenizer of there fails: called unwrap") as caught:
        lengths([*good, Prompt(5, "bad", 6), *good], "there")
    assert caught.value.code == "FP308"
    with pytest.raises(UsageError, match=r"line 6: .*1000000 characters may become 100 times as many"):
        lengths([*good, Prompt(5, "a" * 1_000_000, 6)], "there")
