"""Prompts as people have them."""

from __future__ import annotations

import pytest

from flexplan.errors import PromptError
from flexplan.problem.prompts import Prompt, parse_prompts


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
        (b'{"body": {"messages": []}}', "'messages'"),
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
