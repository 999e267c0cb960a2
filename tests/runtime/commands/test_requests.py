"""Requests as `flexplan run` takes and answers them: in our words and OpenAI's, with all they ask for by themselves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from flexplan_runtime.embedded import tiny_opt_path, tiny_opt_prompts
from flexplan_runtime.generate import Tokenizer
from flexplan_runtime.generate.stops import cut, watching
from transformers import AutoTokenizer
from typer.testing import CliRunner, Result

from flexplan.cli.app import app
from flexplan.problem.prompts import Chat, Prompt
from flexplan.problem.prompts.lengths import lengths

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'root' %}{{ raise_exception('no root') }}"
    "{% endif %}{{ message.role }}: {{ message.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
USER = [{"role": "user", "content": "What is a coroutine?"}]


class Desk:
    """A model with a chat template, prompts and an output."""

    def __init__(self, place: Path) -> None:
        self.place, self.model = place, place / "model"
        shutil.copytree(tiny_opt_path(), self.model)
        (self.model / "chat_template.jinja").write_text(TEMPLATE)
        (place / "policy.json").write_text(json.dumps({"gpu_batch_size": 4, "num_gpu_batches": 2}))
        self.out, self.errors = place / "out.jsonl", place / "out.errors.jsonl"

    def run(self, *lines: dict[str, Any], more: tuple[str, ...] = (), how: str = "--overwrite") -> Result:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        paths = ["--model", self.model, "-o", self.out, "--offload-dir", self.place / "off"]
        fixed = ["run", self.place / "policy.json", "--prompts", "-", "--device", "cpu", "--max-new-tokens", 6]
        args = [str(arg) for arg in (*fixed, *paths, how, "--ordered", *more)]
        return CliRunner().invoke(app, args, input=text)

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.read_text().splitlines()]

    def failed(self) -> dict[Any, dict[str, Any]]:
        rows = [json.loads(line) for line in self.errors.read_text().splitlines()]
        return {row.get("custom_id", row.get("id")): row["error"] for row in rows}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def batch(name: str, url: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": url, "body": {"model": "m", **body}}


def test_lines_of_openai_are_answered_in_its_own_types(desk: Desk) -> None:
    """Its package reads every line; what fails stands in the other file."""
    types = pytest.importorskip("openai.types")
    chats = pytest.importorskip("openai.types.chat")
    text, chat = "/v1/completions", "/v1/chat/completions"
    prompt = tiny_opt_prompts()[0]
    result = desk.run(
        batch("a", text, prompt=[prompt], logprobs=2, max_tokens=4),
        batch("b", text, prompt=[5, 6, 7], n=2, temperature=1.5, seed=3, max_tokens=3),
        batch("c", chat, messages=USER, logprobs=True, top_logprobs=3, max_completion_tokens=5),
        batch("d", chat, messages=USER, temperature=0, user="me", parallel_tool_calls=True),
        batch("long", text, prompt=[5] * 5000),
        batch("odd", chat, messages=USER, colour="red"),
        batch("root", chat, messages=[{"role": "root", "content": "x"}]),
        batch("tools", chat, messages=USER, tools=[{"type": "function"}]),
    )
    assert result.exit_code == 5, result.output
    rows = {row["custom_id"]: row for row in desk.rows()}
    assert list(rows) == ["a", "b", "c", "d"]
    assert all(row["error"] is None and row["response"]["status_code"] == 200 for row in rows.values())
    a, b = (types.Completion.model_validate(rows[n]["response"]["body"], strict=True) for n in "ab")
    c, d = (chats.ChatCompletion.model_validate(rows[n]["response"]["body"], strict=True) for n in "cd")
    assert a.usage and a.usage.completion_tokens == 4 and a.usage.total_tokens == a.usage.prompt_tokens + 4
    told = a.choices[0].logprobs
    assert told and told.tokens and "".join(told.tokens) == a.choices[0].text
    assert told.text_offset and told.text_offset[1] == len(told.tokens[0])
    assert told.top_logprobs and told.token_logprobs == [max(top.values()) for top in told.top_logprobs]
    assert [choice.index for choice in b.choices] == [0, 1] and b.choices[0].text != b.choices[1].text
    assert b.usage and b.usage.completion_tokens == 6
    assert c.choices[0].message.content == d.choices[0].message.content[: len(c.choices[0].message.content)]  # type: ignore[index]
    assert c.choices[0].logprobs and c.choices[0].logprobs.content
    assert len(c.choices[0].logprobs.content) == 5 and len(c.choices[0].logprobs.content[0].top_logprobs) == 3
    assert d.choices[0].finish_reason == "length" and d.model == "model"
    errors = pytest.importorskip("openai.types.batch_error")
    failed = {name: errors.BatchError.model_validate(found, strict=True) for name, found in desk.failed().items()}
    codes = {"long": "FP304", "odd": "FP319", "root": "FP324", "tools": "FP318"}
    assert {name: error.code for name, error in failed.items()} == codes
    assert "no root" in str(failed["root"].message)
    assert all(f"line {error.line}: " in str(error.message) for error in failed.values())


def test_messages_become_the_tokens_that_transformers_gives(desk: Desk) -> None:
    tokenizer = AutoTokenizer.from_pretrained(desk.model)
    chats = [USER, [{"role": "system", "content": " terse "}, *USER, {"role": "assistant", "content": "It"}]]
    ours = Tokenizer(desk.model).encode([Prompt(n, Chat(tuple(chat)), n + 1) for n, chat in enumerate(chats)])
    for chat, found in zip(chats, ours, strict=True):
        given = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True)
        assert found == list(given["input_ids"] if hasattr(given, "keys") else given)
    prompts = [Prompt(n, Chat(tuple(chat)), n + 1) for n, chat in enumerate(chats)]
    assert lengths([*prompts, Prompt(2, "text")], desk.model)[:2] == tuple(map(len, ours))  # as `solve` counts them
    assert desk.run({"id": 1, "messages": USER}, {"id": 2, "prompt_ids": ours[0]}).exit_code == 0
    one, two = desk.rows()
    assert one["messages"] == USER and one["token_ids"] == two["token_ids"]


@pytest.mark.parametrize(
    ("template", "code"),
    [
        ("{% set x = 'a' * 10 ** 11 %}{{ x }}", "too much memory"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{% if %}", "cannot be used"),
        ("{{ messages | nothing }}", "cannot be used"),
    ],
)
def test_a_template_that_harms_is_refused_before_anything_runs(desk: Desk, template: str, code: str) -> None:
    (desk.model / "chat_template.jinja").write_text(template)
    result = desk.run({"messages": USER})
    assert result.exit_code == 2 and code in result.stderr, result.stderr
    assert desk.run({"messages": USER}, {"prompt": "text"}, {"messages": USER}).exit_code == 5
    assert [row["id"] for row in desk.rows()] == [1] and all(code in desk.failed()[n]["message"] for n in (0, 2))


def test_a_template_that_does_not_end_fails_its_lines_and_then_the_run(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flexplan.problem.prompts import chat_template

    monkeypatch.setattr(chat_template, "PATIENCE_S", 1.0)
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    only_one = "{% if messages[0].content == 'loop' %}" + loops + "{% endif %}" + TEMPLATE
    (desk.model / "chat_template.jinja").write_text(only_one)
    loop = [{"role": "user", "content": "loop"}]
    result = desk.run({"id": "a", "messages": USER}, {"id": "b", "messages": loop}, {"id": "c", "messages": USER})
    assert result.exit_code == 5 and [row["id"] for row in desk.rows()] == ["a", "c"]
    assert desk.failed()["b"]["code"] == "FP324" and "line 2" in desk.failed()["b"]["message"]
    monkeypatch.setattr(chat_template, "MOST_ENDLESS", 2)
    result = desk.run(*[{"messages": loop}] * 5)
    assert result.exit_code == 2 and "FP323" in result.stderr and "lines 1, 2: " in result.stderr


def test_each_line_of_ours_has_its_own_wishes(desk: Desk) -> None:
    prompt = tiny_opt_prompts()[0]
    assert desk.run({"prompt": prompt}).exit_code == 0
    (plain,) = desk.rows()
    middle = plain["text"][2:5]
    result = desk.run(
        {"prompt": prompt, "max_tokens": 3},
        {"prompt": prompt, "stop": ["zzz", middle]},
        {"prompt": prompt, "stop_token_ids": [plain["token_ids"][1]]},
        {"prompt": prompt, "temperature": 2.0, "seed": 1, "n": 2},
        {"prompt": prompt, "logprobs": True, "top_logprobs": 2, "max_tokens": 2},
        {"prompt": prompt, "logit_bias": {"395": 100}},
        {"prompt": prompt, "logit_bias": {"999999": 100}},
        {"prompt": prompt, "stop_token_ids": [999999]},
    )
    assert result.exit_code == 5
    short, stopped, at_id, two, told, biased = desk.rows()
    assert short["token_ids"] == plain["token_ids"][:3]
    assert stopped["finish_reason"] == "stop" and stopped["text"] == plain["text"][: plain["text"].index(middle)]
    assert stopped["token_ids"] == plain["token_ids"][: len(stopped["token_ids"])]
    assert at_id["token_ids"] == plain["token_ids"][:2] and at_id["finish_reason"] == "stop"
    assert len(two["choices"]) == 2 and two["choices"][0]["token_ids"] != two["choices"][1]["token_ids"]
    assert [one["token_id"] for one in told["logprobs"]] == told["token_ids"]
    assert all(one["top_logprobs"][0]["logprob"] == one["logprob"] for one in told["logprobs"])
    assert set(biased["token_ids"]) == {395}
    assert desk.failed()[6]["code"] == desk.failed()[7]["code"] == "FP309"


def test_a_line_without_a_temperature_does_as_the_flags_say(desk: Desk) -> None:
    prompt = tiny_opt_prompts()[0]
    lines = [{"prompt": prompt}, {"prompt": prompt, "temperature": 0}, {"prompt": prompt, "temperature": 3.0}]
    assert desk.run(*lines, more=("--do-sample", "--temperature", "3.0")).exit_code == 0
    drawn, greedy, own = (row["token_ids"] for row in desk.rows())
    assert desk.run({"prompt": prompt}).exit_code == 0
    assert greedy == desk.rows()[0]["token_ids"] != drawn
    assert own not in (drawn, greedy)  # drawn by its place
    # what draws by itself takes the flags, too; where nothing draws they are refused
    one = [{"prompt": prompt, "top_p": 0.9, "seed": 1}, {"prompt": prompt}]
    for hot in ("0.01", "3.0"):
        assert desk.run(*one, more=("--temperature", hot)).exit_code == 0
        narrow, plain = (row["token_ids"] for row in desk.rows())
        assert plain == greedy and (narrow == greedy) == (hot == "0.01")
    differs = desk.run(*one, more=("--temperature", "2.0"), how="--resume")
    assert "is greedy, drawn lines by temperature 2.0" in differs.stderr
    assert "FP165" in desk.run({"prompt": prompt}, more=("--temperature", "3.0")).stderr
    assert "FP150" in desk.run(*one, more=("--temperature", "-1")).stderr


def test_stops_are_found_across_the_borders_of_tokens_and_characters_that_are_cut(desk: Desk) -> None:
    """Where the engine stops is the first token with which the stop stands in the text."""
    tokenizer = Tokenizer(desk.model)
    (prompt, told) = tokenizer.encode([Prompt(0, "Say: "), Prompt(1, "Grüße, 你好 \U0001f600 and so on: the end")])
    told = [token for token in told if token not in tokenizer.encode([Prompt(0, "")])[0]]
    whole = tokenizer.decode(told, after=prompt)
    assert whole
    for stops in (("üß",), ("好",), ("\U0001f600",), ("o on: t", "zz"), (" the",), (whole[3:9],)):
        ends = watching(tokenizer, prompt, stops)
        at = next(n for n in range(1, len(told) + 1) if ends(told[:n]))
        text = tokenizer.decode(told[:at], after=prompt) or ""
        before = tokenizer.decode(told[: at - 1], after=prompt) or ""
        assert any(stop in text for stop in stops) and not any(stop in before for stop in stops)
        assert cut(text, stops) == whole[: min(whole.index(stop) for stop in stops if stop in whole)]


def test_the_bytes_of_tokens_make_the_text_also_where_they_cut_a_character(desk: Desk) -> None:
    tokenizer = Tokenizer(desk.model)
    text = " Grüße, 你好 \U0001f600"
    (tokens,) = tokenizer.encode([Prompt(0, text)])
    pieces = [tokenizer.piece(token) for token in tokens]
    assert all(raw is not None for _, raw in pieces)
    assert b"".join(raw or b"" for _, raw in pieces).decode().endswith(text)
    assert any("\ufffd" in one for one, _ in pieces)  # there are such


def test_stop_texts_without_a_tokenizer_are_refused_and_the_rest_is_run(desk: Desk) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "chat_template.jinja"):
        (desk.model / name).unlink(missing_ok=True)
    result = desk.run(
        {"id": "a", "prompt_ids": [5, 6], "stop": ["x"]}, {"id": "b", "prompt_ids": [5, 6], "logprobs": 1}
    )
    assert result.exit_code == 5 and desk.failed()["a"]["code"] == "FP325"
    assert desk.rows()[0]["id"] == "b" and len(desk.rows()[0]["logprobs"]) == 6


@pytest.mark.parametrize(("own", "knob"), [({}, "--max-new-tokens"), ({"max_tokens": 90}, "the max_tokens of line 2")])
def test_of_a_job_that_does_not_fit_the_longest_line_is_named(desk: Desk, own: dict[str, int], knob: str) -> None:
    lines = [{"prompt_ids": [5, 6]}, {"id": "long", "prompt_ids": [7] * 300, **own}, {"prompt_ids": [8]}]
    result = desk.run(*lines, more=("--gpu-mem", "1M"))
    new = own.get("max_tokens", 6)
    assert result.exit_code == 3
    assert f"line 2 (id 'long'), has 300 tokens + {new} new, the shortest has 7 together" in result.stderr
    assert f"or lower {knob}, shorten line 2" in result.stderr


def test_an_empty_text_fails_alone(desk: Desk) -> None:
    assert desk.run({"id": "a", "prompt": ""}, {"id": "b", "prompt_ids": [7]}).exit_code == 5
    assert [row["id"] for row in desk.rows()] == ["b"]
    assert desk.failed()["a"]["message"] == "line 1: the prompt is empty"
