"""The tokenizer beside the weights: text that continues the prompt, and no surprise after the work."""

from __future__ import annotations

import json
import logging
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
from flexplan_runtime.generate import Tokenizer, tokenizer
from tokenizers import Tokenizer as Made
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer
from typer.testing import CliRunner

from flexplan.cli.app import app
from flexplan.errors import PromptError
from flexplan.problem.prompts import Prompt
from flexplan.problem.prompts.tokenizer_file import bounded

TEXT = ["the capital of France is Paris", "a model that did not fit, naïve: 你好", "weights live on the disk"] * 4


def save(made: Made, place: Path) -> Path:
    made.save(str(place / "tokenizer.json"))
    (place / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return place


@pytest.fixture
def metaspace(tmp_path: Path) -> Path:
    """As Llama 2's: a space stands for the beginning, and decoding drops it."""
    made = Made(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "</s>"], show_progress=False)
    made.train_from_iterator(TEXT, trainer)
    return save(made, tmp_path)


@pytest.fixture
def bytelevel(tmp_path: Path) -> Path:
    made = Made(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["abc"], trainer)
    return save(made, tmp_path)


@pytest.mark.parametrize("kind", ["metaspace", "bytelevel"])
@pytest.mark.parametrize("text", TEXT[:3])
def test_prompt_and_text_are_what_both_give_together(kind: str, text: str, request: pytest.FixtureRequest) -> None:
    directory = request.getfixturevalue(kind)
    plain, ours = AutoTokenizer.from_pretrained(directory), Tokenizer(directory)
    ids = plain(text)["input_ids"]
    for cut in range(len(ids) + 1):
        together, before = plain.decode(ids), plain.decode(ids[:cut])
        found = ours.decode(ids[cut:], after=ids[:cut])
        assert found is not None and together.endswith(found)
        if "\ufffd" not in before:
            assert before + found == together


def test_a_character_that_the_prompt_cuts_is_in_the_text(bytelevel: Path) -> None:
    ids = AutoTokenizer.from_pretrained(bytelevel)("x你y")["input_ids"]
    assert Tokenizer(bytelevel).decode(ids[2:], after=ids[:2]) == "你y"


def test_token_ids_run_beside_a_tokenizer_that_does_not_load(tiny_opt: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for path in tiny_opt.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    (model / "tokenizer.json").write_text("{}")
    (tmp_path / "policy.json").write_text('{"gpu_batch_size": 1}')
    (tmp_path / "in.jsonl").write_text('{"prompt_ids": [5, 6, 7]}')
    base = ["run", str(tmp_path / "policy.json"), "--model", str(model), "--offload-dir", str(tmp_path / "off")]
    base += ["--device", "cpu", "--max-new-tokens", "3", "-o", str(tmp_path / "out.jsonl")]
    result = CliRunner().invoke(app, [*base, "--prompts", str(tmp_path / "in.jsonl")])
    assert result.exit_code == 0 and "their text is null" in result.stderr
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert (len(row["token_ids"]), row["text"]) == (3, None)
    (tmp_path / "in.txt").write_text("hello")
    result = CliRunner().invoke(app, [*base, "--overwrite", "--prompts", str(tmp_path / "in.txt")])
    assert result.exit_code == 4 and "FP541" in result.stderr and "loading weights" not in result.stderr
    # among others a text fails alone, also where there is no tokenizer at all
    (tmp_path / "in.jsonl").write_text('{"prompt": "hello"}\n{"prompt_ids": [5, 6, 7]}\n')
    for code in ("FP541", "FP540"):
        result = CliRunner().invoke(app, [*base, "--overwrite", "--prompts", str(tmp_path / "in.jsonl")])
        assert result.exit_code == 5 and json.loads((tmp_path / "out.jsonl").read_text()) == row | {"id": 1}
        assert json.loads((tmp_path / "out.errors.jsonl").read_text())["error"]["code"] == code
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (model / name).unlink(missing_ok=True)


def test_a_prompt_that_is_too_long_is_no_news_of_the_library(tiny_opt: Path, caplog: pytest.LogCaptureFixture) -> None:
    library = logging.getLogger("transformers")
    library.addHandler(caplog.handler)
    try:
        (ids,) = Tokenizer(tiny_opt).encode([Prompt(0, "a list " * 1000)])
    finally:
        library.removeHandler(caplog.handler)
    assert len(ids) > 512 and not caplog.records


def test_a_library_that_panics_is_an_error_of_those_lines(bytelevel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        """As that of a library in Rust."""

    def panics(*args: Any, **options: Any) -> None:
        raise PanicException("attempt to subtract with overflow")

    ours = Tokenizer(bytelevel)
    monkeypatch.setattr(ours, "_loaded", panics)
    with pytest.raises(PromptError, match=r"\]: line 4: .*overflow"):
        ours.encode([Prompt(0, "a", 4), Prompt(1, "b", 9)])


def test_the_line_that_a_tokenizer_fails_on_is_named(bytelevel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fragile(text: str, **options: bool) -> dict[str, list[int]]:
        if text == "bad":
            raise KeyError("no such piece")
        return {"input_ids": [1]}

    ours = Tokenizer(bytelevel)
    monkeypatch.setattr(ours, "_loaded", fragile)
    with pytest.raises(PromptError, match=r"\]: line 7: .*no such piece") as caught:
        ours.encode([Prompt(0, "good", 4), Prompt(1, "bad", 7), Prompt(2, "good", 9)])
    assert caught.value.code == "FP308"


def test_tokens_are_kept_where_their_text_cannot_be_told(bytelevel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def decode(self, tokens: list[int], **options: Any) -> str:
            if 7 in tokens:
                raise IndexError("piece id is out of range")
            return "fine" * (len(tokens) > 0)

    ours = Tokenizer(bytelevel)
    monkeypatch.setattr(ours, "_loaded", Failing())
    with pytest.warns(UserWarning, match="piece id is out of range; the text of such answers is null"):
        assert ours.decode([1, 7]) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert (ours.decode([7]), ours.decode([1])) == (None, "fine")


def test_a_tokenizer_that_hangs_on_an_answer_is_not_asked_again(
    bytelevel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    ours = Tokenizer(bytelevel)
    monkeypatch.setattr(ours, "_text", lambda ids: never.wait())
    monkeypatch.setattr(tokenizer, "bounded", lambda act: bounded(act, 0.05))
    with pytest.warns(UserWarning, match="did not end within 0.05 s.* all answers from here on is null"):
        assert ours.decode([1]) is None
    assert ours.broken and ours.decode([2]) is None
    never.set()


def test_a_request_of_a_batch_says_how_many_new_tokens(tiny_opt: Path, tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text('{"gpu_batch_size": 1}')
    line = {"custom_id": "r1", "method": "POST", "url": "/v1/completions", "body": {"prompt": [5, 6], "max_tokens": 2}}
    (tmp_path / "in.jsonl").write_text(json.dumps(line))
    base = ["run", str(tmp_path / "policy.json"), "--model", str(tiny_opt), "--offload-dir", str(tmp_path / "off")]
    base += ["--device", "cpu", "--ignore-eos", "-o", "-", "--format", "openai"]
    base += ["--prompts", str(tmp_path / "in.jsonl")]
    for more in ([], ["--max-new-tokens", "7"]):  # which is for lines that do not say
        result = CliRunner().invoke(app, [*base, *more])
        assert result.exit_code == 0, result.output
        row = json.loads(result.stdout)
        assert (row["custom_id"], row["response"]["body"]["usage"]["completion_tokens"]) == ("r1", 2)
