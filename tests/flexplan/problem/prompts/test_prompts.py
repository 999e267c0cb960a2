"""Prompts as people have them."""

from __future__ import annotations

import gzip
import io
import json
import os
import tracemalloc
from pathlib import Path

import pytest

from flexplan.errors import PromptError
from flexplan.problem.prompts import Chat, Prompt, Wishes, new_tokens_of, read_prompts
from flexplan.problem.prompts.reading import parse_prompts


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
        (b'{"prompt": ["one"]}', "one"),  # OpenAI's list of prompts
        (b'{"prompt": [[1, 2]]}', (1, 2)),
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


@pytest.mark.parametrize("line", ['{"prompt": "x"}', '{"custom_id": "a", "body": {"messages": []}}'])
def test_requests_in_a_text_file_are_taken_as_prompts_only_when_that_is_said(tmp_path: Path, line: str) -> None:
    path = tmp_path / "in.txt"
    path.write_text(f"{line}\n\n{line}\n")
    with pytest.raises(PromptError, match="every line is a request in JSON") as caught:
        read_prompts(path)
    assert "--format jsonl" in caught.value.fix
    assert [prompt.content for prompt in read_prompts(path, "text")] == [line, line]
    path.write_text(f'{line}\nplain\n{{"other": 1}}\n')
    assert len(read_prompts(path)) == 3


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
        (b'{"prompt": [[]]}', "no tokens"),
        (b'{"prompt_ids": [[1, 2]]}', "[1, 2] is not a token id"),
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
    listed = ", ".join(rf"{n} \(lines {2 * n + 1}, {2 * n + 2}\)" for n in range(10))
    with pytest.raises(PromptError, match=rf"20 ids .*: {listed};"):
        parse_prompts(data)


@pytest.mark.parametrize(
    ("lines", "twin"),
    [
        (['{"id": "a", "prompt": "x"}', '{"id": "a", "prompt": 5}'], r"a \(lines 1, 2\)"),  # one of them is bad
        (['{"id": "a", "prompt": 5}', '{"id": "a", "colour": 1}'], r"a \(lines 1, 2\)"),
        (['{"custom_id": 5, "body": {"prompt": "x"}}', '{"id": "5", "prompt": "y"}'], r"5 \(lines 1, 2\)"),
    ],
)
def test_no_two_lines_have_one_name_whatever_they_are(lines: list[str], twin: str, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join([*lines, '{"id": "z", "prompt": "z"}']))
    with pytest.raises(PromptError, match=rf"1 ids stand there more than once: {twin}"):
        read_prompts(path, strict=False)


@pytest.mark.parametrize("form", ["lines", "array"])
@pytest.mark.parametrize("spoilt", [False, True])
def test_a_line_without_an_id_never_costs_the_file(spoilt: bool, form: str, tmp_path: Path) -> None:
    """It is called by its place; where that is another's id the later of the two fails, as prompts may be added."""
    lines = ['{"id": 1, "prompt": "a"}', '{"prompt": "b"}', '{"prompt": "c"}', '{"id": "2", "prompt": "d"}']
    lines += ['{"id": 4, "prompt": "its own place"}', '{"prompt": "f"}']
    if spoilt:
        lines[3] = lines[3].replace('"d"', "5")
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(lines) if form == "lines" else f"[{', '.join(lines)}]")
    found = read_prompts(path, strict=False)
    assert [(one.id, one.content) for one in found] == [(1, "a"), (2, "c"), (4, "its own place"), (5, "f")]
    assert list(found.places) == [0, 2, 4, 5] and list(found.bad.places) == [1, 3]
    first, second = found.bad
    assert first.id is None and second.id is None and first.error.code == "FP337"
    if form == "lines":
        assert first.error.message.startswith("line 2 has no id") and "1, which is the id of line 1" in str(first.error)
    assert second.error.code == ("FP312" if spoilt else "FP337")
    with pytest.raises(PromptError, match="FP312" if spoilt else "FP337"):
        read_prompts(path)


def test_lines_that_cannot_be_read_are_put_aside_with_what_is_wrong(tmp_path: Path) -> None:
    """Of one that is no text, too long or no JSON nobody knows a name: a number that is another's id is no twin."""
    path = tmp_path / "in.jsonl"
    long = b'{"prompt": "' + b"x" * (9 << 20) + b'"}'
    lines = [b'{"id": 1, "prompt": "a"}', b'{"prompt": "\xff"}', long, b'{"id": 3, "prompt"', b'{"id": 4, "prompt": 5}']
    path.write_bytes(b"\n".join([*lines, b'{"id": "z", "prompt": "z"}']))
    for packed in (False, True):
        if packed:
            path.write_bytes(gzip.compress(path.read_bytes()))
        found = read_prompts(path, strict=False)
        assert [(one.id, one.line) for one in found] == [(1, 1), ("z", 6)]
        assert [(one.place, one.line, one.id, one.error.code) for one in found.bad] == [
            (1, 2, None, "FP311"),
            (2, 3, None, "FP315"),
            (3, 4, None, "FP312"),
            (4, 5, 4, "FP312"),
        ]
        assert len({found.bad.digest(n) for n in range(4)}) == 4
        with pytest.raises(PromptError, match="line 2"):
            read_prompts(path)


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        (b'{"custom_id": "a", "body": {"messages": []}}', "messages"),
        (b'{"custom_id": "a", "body": {"prompt": "x", "echo": true}}', "echo"),
        (b'{"custom_id": "a", "body": {"prompt": ["x", "y"]}}', "2 prompts"),
        (b'{"custom_id": "a", "body": {"prompt": [[1], [2], [3]]}}', "3 prompts"),
        (b'{"custom_id": "a", "body": {"prompt": [["x"]]}}', "'x' is not a token id"),
        (b'{"custom_id": "a", "body": {"prompt": "x", "best_of": 3}}', "best_of 3"),
        (b'{"custom_id": "a", "url": "/v1/embeddings", "body": {"prompt": "x"}}', "/v1/embeddings"),
        (b'{"custom_id": "a", "method": "GET", "body": {"prompt": "x"}}', "GET"),
        (b'{"custom_id": "a", "priority": 1, "body": {"prompt": "x"}}', "priority"),
        (b'{"custom_id": "a", "url": "/v1/chat/completions", "body": {"prompt": "x"}}', "'prompt'"),
        (b'{"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "x", "top_logprobs": 2}}', "top_logprobs"),
        (b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "not text"),
        (b'{"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}', "tool_calls"),
        (b'{"messages": [{"content": "x"}]}', "the role of a message is null"),
        (b'{"prompt": "x", "messages": [{"role": "user", "content": "x"}]}', "both"),
        (b'{"prompt": "x", "answer": "y"}', "'answer'"),
    ],
)
def test_what_would_be_ignored_is_refused_with_its_line(line: bytes, seen: str) -> None:
    with pytest.raises(PromptError) as caught:
        parse_prompts(b'{"prompt": "good"}\n' + line + b"\n")
    assert "line 2" in caught.value.message and seen in caught.value.message


@pytest.mark.parametrize(
    ("wish", "seen"),
    [
        ('"temperature": false', "temperature False"),
        ('"temperature": "0"', "temperature '0'"),
        ('"temperature": -1', "0 to 100"),
        ('"top_p": 0', "top_p 0"),
        ('"top_p": 1.5', "top_p 1.5"),
        ('"top_k": 2.5', "top_k 2.5"),
        ('"min_p": 2', "min_p 2"),
        ('"seed": 1e3', "seed 1000.0"),
        ('"n": 0', "n 0"),
        ('"n": 3, "temperature": 0', "one answer 3 times"),
        ('"stop": ["1", "2", "3", "4", "5"]', "up to 4 texts"),
        ('"stop": [""]', "1 to 256 characters"),
        ('"stop": [-3]', "token ids"),
        ('"stop_token_ids": [true]', "token ids"),
        ('"logprobs": 21', "logprobs 21"),
        ('"top_logprobs": 3', "without logprobs"),
        ('"repetition_penalty": 0', "repetition_penalty 0"),
        ('"presence_penalty": 3', "-2 to 2"),
        ('"logit_bias": {"x": 1}', "logit_bias"),
        ('"logit_bias": {"5": 101}', "-100 to 100"),
        (f'"logit_bias": {{"{"5" * 5000}": 1}}', "is not up to 1024 token ids"),
        ('"max_new_tokens": 0', "max_new_tokens 0"),
        ('"max_tokens": 2, "max_new_tokens": 3', "max_tokens and max_new_tokens"),
    ],
)
def test_a_wish_that_is_none_is_refused_with_what_it_should_be(wish: str, seen: str) -> None:
    with pytest.raises(PromptError) as caught:
        parse_prompts(b'{"prompt": "good"}\n{"prompt": "x", %s}' % wish.encode())
    assert caught.value.code == "FP320" and "line 2" in caught.value.message and seen in caught.value.message


def test_wishes_are_read_in_the_words_of_either_api() -> None:
    line = """{"prompt": "x", "max_tokens": 3, "temperature": 0.5, "top_p": 1, "top_k": -1, "min_p": 0.1, "seed": -4,
        "stop": ["a", 7], "stop_token_ids": [8, 9], "n": 2, "logprobs": true, "top_logprobs": 5, "user": "me",
        "repetition_penalty": 1.1, "presence_penalty": 1, "frequency_penalty": -1, "logit_bias": {"3": -100, "1": 2}}"""
    (found,) = parse_prompts(" ".join(line.split()).encode())
    assert found.wishes == Wishes(
        max_new_tokens=3,
        temperature=0.5,
        top_p=1.0,
        top_k=0,
        min_p=0.1,
        seed=-4,
        n=2,
        stop=("a",),
        stop_ids=(7, 8, 9),
        logprobs=5,
        repetition_penalty=1.1,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        logit_bias=((1, 2.0), (3, -100.0)),
    )
    for wish, draws in (
        ("", None),
        (', "temperature": 0, "top_p": 0.5', False),
        (', "top_k": 4', True),
        (', "n": 2', True),
    ):
        assert parse_prompts(b'{"prompt": "x"%s}' % wish.encode())[0].wishes.draws is draws
    assert parse_prompts(b'{"prompt": "x", "logprobs": 0}')[0].wishes.logprobs == 0
    assert parse_prompts(b'{"prompt": "x", "logprobs": false, "stop": "a"}')[0].wishes.stop == ("a",)


def test_messages_of_a_batch_are_a_chat_and_parts_of_text_are_joined() -> None:
    message = '{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}'
    line = f'{{"custom_id": "c", "url": "/v1/chat/completions", "body": {{"messages": [{message}], "logprobs": true}}}}'
    (found,) = parse_prompts(line.encode())
    assert (found.api, found.content) == ("chat", Chat(({"role": "user", "content": "ab"},)))


def test_gzip_and_pipes_are_read_like_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"".join(b'{"id": "r%d", "prompt": "text %d"}\n' % (n, n) for n in range(500))
    packed = tmp_path / "in.jsonl.gz"
    packed.write_bytes(gzip.compress(data))
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": io.BytesIO(gzip.compress(data))}))
    for source in (packed, "-"):
        found = read_prompts(source)
        assert len(found) == 500 and tuple(found) == parse_prompts(data)
        assert found[-1].id == "r499" and [p.line for p in found[100:102]] == [101, 102]
    packed.write_bytes(gzip.compress(data)[:-400])
    with pytest.raises(PromptError, match="cannot be read"):
        read_prompts(packed)


def test_a_line_that_changes_after_it_was_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("one\ntwo\n")
    found = read_prompts(path)
    with path.open("r+") as file:
        file.write("ten")
    assert found[1].content == "two"
    with pytest.raises(PromptError, match="line 1 is not what it was"):
        found[0]


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


def test_of_many_bad_lines_there_is_an_index_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    lines = ({"id": f"b{n}", "prompt": "x" * 500, "colour": 1} for n in range(5000))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    read_prompts(path, strict=False)
    tracemalloc.start()
    try:
        found = read_prompts(path, strict=False)
        assert len(found.bad) == 5000 and tracemalloc.get_traced_memory()[0] < 5000 * 100
    finally:
        tracemalloc.stop()
    assert found.bad[4321].id == "b4321" and "line 4322" in found.bad[4321].error.message
