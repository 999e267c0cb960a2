"""Prompts as people have them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flexplan.errors import PromptError
from flexplan.problem import Prompt, new_tokens_of, read_prompts, refuse_greedy
from flexplan.problem.prompts import parse_prompts


def contents(data: bytes, suffix: str = "") -> list[str | tuple[int, ...]]:
    return [prompt.content for prompt in parse_prompts(data, suffix)]


def test_plain_text_is_one_prompt_a_line() -> None:
    assert parse_prompts(b"one\n\n two \n") == (Prompt(0, "one", 1), Prompt(1, " two ", 3))


def test_mark_and_line_ends_of_other_systems_are_no_part_of_a_prompt() -> None:
    assert contents(b"\xef\xbb\xbfone\r\ntwo\r\n") == ["one", "two"]


def test_only_a_line_feed_ends_a_line() -> None:
    text = "one\u2028still one\u0085and\x0bmore"
    assert contents(text.encode() + b"\ntwo") == [text, "two"]


@pytest.mark.parametrize(
    ("line", "content"),
    [
        (b'{"prompt": "text"}', "text"),
        (b'{"prompt": [1, 2]}', (1, 2)),
        (b'{"prompt_ids": [0, 7], "note": null}', (0, 7)),
        (b'"text"', "text"),
        (b"[3, 4]", (3, 4)),
        (b'{"custom_id": "a", "body": {"prompt": "text", "max_tokens": 5}}', "text"),
        (b'{"prompt": ""}', ""),
        ('{"prompt": "\\ud83d\\ude00 \\u0000 שלום"}'.encode(), "\U0001f600 \x00 שלום"),
    ],
)
def test_json_lines_come_in_these_forms(line: bytes, content: str | tuple[int, ...]) -> None:
    assert contents(line, ".jsonl") == contents(line) == [content]


def test_ids_are_kept_and_else_counted() -> None:
    data = b'{"id": "x", "prompt": "a"}\n{"prompt": "b"}\n{"custom_id": "r-9", "body": {"prompt": "c"}}'
    assert [prompt.id for prompt in parse_prompts(data)] == ["x", 1, "r-9"]


def test_text_that_looks_like_json_later_on_stays_text() -> None:
    assert contents(b'plain\n{"prompt": "x"}') == ["plain", '{"prompt": "x"}']
    assert contents(b'{"prompt": "x"}', ".txt") == ['{"prompt": "x"}']


def test_nothing_is_no_prompts() -> None:
    assert parse_prompts(b"") == parse_prompts(b"\n \r\n\t\n", ".jsonl") == ()


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        (b'{"prompt": "x"', "not JSON"),
        (b'{"prompt": "x", "prompt": "y"}', "twice"),
        (b"[" * 100_000, "nested"),
        (b"7", "a number"),
        (b"null", "null"),
        (b"{}", "none"),
        (b'{"text": "x"}', "'text'"),
        (b'{"prompt": "x", "prompt_ids": [1]}', "both"),
        (b'{"prompt": null}', "null"),
        (b'{"prompt": {"a": 1}}', "an object"),
        (b'{"prompt": []}', "no tokens"),
        (b'{"prompt": [1, -2]}', "-2"),
        (b'{"prompt": [true]}', "True"),
        (b'{"prompt": [null]}', "None"),
        (b'{"prompt": [1.5]}', "1.5"),
        (b'{"id": 1.5, "prompt": "x"}', "1.5"),
        (b'{"prompt": "\\ud800"}', "surrogate"),
        (b'{"prompt": "\xff"}', "0xff"),
    ],
)
def test_a_bad_line_is_named_with_what_is_allowed(line: bytes, seen: str) -> None:
    with pytest.raises(PromptError) as caught:
        parse_prompts(b'{"prompt": "good"}\n' + line + b"\n", ".jsonl")
    assert "line 2" in caught.value.message
    assert seen in caught.value.message
    assert "allowed" in caught.value.message
    assert caught.value.fix


def test_ids_that_stand_there_twice_are_listed() -> None:
    data = b"\n".join(b'{"id": %d, "prompt": "x"}' % (n // 2) for n in range(40))
    with pytest.raises(PromptError, match=r"20 ids .* 0, 1, 2, 3, 4, 5, 6, 7, 8, 9;"):
        parse_prompts(data)


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        (b'{"custom_id": "a", "body": {"messages": []}}', "messages"),
        (b'{"custom_id": "a", "body": {"prompt": "x", "temperature": 0.7}}', "temperature 0.7"),
        (b'{"custom_id": "a", "body": {"prompt": "x", "stop": ["."]}}', "stop"),
        (b'{"custom_id": "a", "body": {"prompt": "x", "n": 3}}', "n 3"),
        (b'{"custom_id": "a", "body": {"prompt": "x", "echo": true}}', "echo"),
        (b'{"custom_id": "a", "url": "/v1/embeddings", "body": {"prompt": "x"}}', "/v1/embeddings"),
        (b'{"custom_id": "a", "method": "GET", "body": {"prompt": "x"}}', "GET"),
        (b'{"custom_id": "a", "priority": 1, "body": {"prompt": "x"}}', "priority"),
        (b'{"prompt": "x", "temperature": 0.7}', "temperature"),
        (b'{"prompt": "x", "temperature": 1}', "temperature 1"),
        (b'{"prompt": "x", "temperature": false}', "temperature"),
        (b'{"prompt": "x", "temperature": "0"}', "temperature"),
        (b'{"prompt": "x", "max_new_tokens": 0}', "max_new_tokens 0"),
        (b'{"prompt": "x", "max_tokens": 2, "max_new_tokens": 3}', "max_tokens and max_new_tokens"),
        (b'{"prompt": "x", "answer": "y"}', "'answer'"),
    ],
)
def test_what_would_be_ignored_is_refused_with_its_line(line: bytes, seen: str) -> None:
    with pytest.raises(PromptError) as caught:
        parse_prompts(b'{"prompt": "good"}\n' + line + b"\n")
    assert "line 2" in caught.value.message and seen in caught.value.message


@pytest.mark.parametrize("zero", ["0", "0.0", "-0.0"])
def test_temperature_0_is_greedy(zero: str) -> None:
    line = '{"custom_id": "a", "body": {"prompt": "x", "temperature": %s}}' % zero  # noqa: UP031 - braces
    greedy, plain = parse_prompts(f'{line}\n{{"prompt": "y", "temperature": null}}\n'.encode())
    assert greedy.greedy and not plain.greedy
    refuse_greedy([plain])
    with pytest.raises(PromptError, match=r"line 1: temperature 0 .*--do-sample") as caught:
        refuse_greedy([plain, greedy])
    assert caught.value.code == "FP318"


def test_what_asks_for_nothing_is_let_pass() -> None:
    body = '{"model": "m", "prompt": "x", "n": 1, "echo": false, "logprobs": null, "user": "me", "stream": false}'
    line = f'{{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {body}}}'
    (found,) = parse_prompts(line.encode(), form="openai")
    assert (found.id, found.content, found.max_new_tokens) == ("a", "x", None)


def test_each_line_has_its_own_most_new_tokens_or_those_of_the_run() -> None:
    own = parse_prompts(b'{"prompt": "a", "max_tokens": 2}\n{"prompt": "b", "max_new_tokens": 7}\n[1]')
    assert new_tokens_of(own, 32) == (2, 7, 32)
    with pytest.raises(PromptError, match="line 1 asks for 2 new tokens, --max-new-tokens for 32"):
        new_tokens_of(own, 32, "--max-new-tokens")


def test_one_json_array_is_read_as_its_entries() -> None:
    text = b'[\n {"id": "x", "prompt": "a"},\n "b",\n [1, 2]\n]'
    assert [(p.id, p.content) for p in parse_prompts(text, ".json")] == [("x", "a"), (1, "b"), (2, (1, 2))]
    assert contents(b'[{"prompt": "a"}, {"prompt": "b"}]') == ["a", "b"]
    assert contents(b"[1, 2]\n[3]") == [(1, 2), (3,)]


def test_a_format_that_is_named_is_the_one() -> None:
    assert [p.content for p in parse_prompts(b'{"prompt": "x"}', ".jsonl", "text")] == ['{"prompt": "x"}']
    with pytest.raises(PromptError, match="no body"):
        parse_prompts(b'{"prompt": "x"}', form="openai")
    with pytest.raises(PromptError, match="not JSON"):
        parse_prompts(b"plain", form="jsonl")


def test_tables_are_named(tmp_path: Path) -> None:
    table = tmp_path / "in.csv"
    table.write_text("prompt\nhello\n")
    with pytest.raises(PromptError, match="a table"):
        read_prompts(table)
    assert [p.content for p in read_prompts(table, "text")] == ["prompt", "hello"]


def test_a_line_without_an_end_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    with path.open("wb") as file:
        file.truncate(60 << 30)  # a hole
    with pytest.raises(PromptError, match="line 1 is longer than 8 MiB"):
        read_prompts(path)


def test_a_pipe_that_nobody_writes_to_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in.txt")
    with pytest.raises(PromptError, match="not a regular file"):
        read_prompts(tmp_path / "in.txt")


def test_members_of_an_array_have_the_lines_they_begin_on() -> None:
    data = b'\n[\n  {\n    "prompt": "[a,\\n"\n  },\n\n  [1,\n   2], "b"\n  , "c"]\n'
    assert [(p.content, p.line) for p in parse_prompts(data)] == [("[a,\n", 3), ((1, 2), 7), ("b", 8), ("c", 9)]
    with pytest.raises(PromptError, match="line 4: the prompt is null"):
        parse_prompts(b'[\n"a",\n"b",\nnull\n]')


def test_a_line_of_two_names_is_refused_for_one_would_vanish() -> None:
    with pytest.raises(PromptError, match="line 1: it has both id and custom_id"):
        parse_prompts(b'{"id": 1, "custom_id": "a", "prompt": "x"}')
