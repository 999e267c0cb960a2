"""A line as a request: of our JSON Lines, or of an OpenAI batch; what would be ignored is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from flexplan.errors import PromptError
from flexplan.files import parse_json
from flexplan.limits import shown
from flexplan.parameters import CHAT, COMPLETIONS, IRRELEVANT, REFUSED, Parameter, asked
from flexplan.problem.prompts.wishes import NOTHING, Wishes, read_wishes

Api = Literal["own", "completions", "chat"]  # whose words a line is in, and its answer is to be

_ALLOWED = 'text, {"prompt": "..."}, {"prompt_ids": [1, 2]} or {"messages": [...]}'
_BATCH_KEYS = frozenset(("custom_id", "method", "url", "body"))
_APIS: Mapping[str, Api] = {"/v1/completions": "completions", "/v1/chat/completions": "chat"}
_TABLES: Mapping[Api, Mapping[str, Parameter]] = {
    "own": {**COMPLETIONS, **CHAT},  # log-probabilities in the words of either
    "completions": COMPLETIONS,
    "chat": CHAT,
}
_OWN_KEYS = frozenset(
    ("id", "custom_id", "prompt", "prompt_ids", "messages", "max_new_tokens", "max_completion_tokens")
)
_CONTENTS = ("prompt", "prompt_ids", "messages")
_MESSAGE_KEYS = frozenset(("role", "content", "name"))


@dataclass(frozen=True, slots=True)
class Chat:
    """Messages, which the tokenizer's chat template makes a text of."""

    messages: tuple[Mapping[str, str], ...]

    def __len__(self) -> int:
        """Characters of all messages."""
        return sum(len(message["content"]) for message in self.messages)


Content = str | tuple[int, ...] | Chat


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request: a text, token ids or messages; ``line`` is its line in the input, counted from 1."""

    id: str | int
    content: Content
    line: int = 0
    wishes: Wishes = NOTHING
    api: Api = "own"

    @property
    def max_new_tokens(self) -> int | None:
        """What its own line asks for."""
        return self.wishes.max_new_tokens


def loaded(text: str, line: int) -> Any:
    """A line as JSON."""
    try:
        return parse_json(text)
    except ValueError as error:
        _refuse(line, f"not JSON: {error}")


def prompt_of(found: Any, line: int, n: int, form: str) -> Prompt:
    """The request that a line is; ``n`` is its id where it has none.  Raises PromptError."""
    if form == "openai" and not (isinstance(found, dict) and "body" in found):
        _refuse(line, "it is no line of an OpenAI batch: it has no body")
    if not isinstance(found, dict):
        return Prompt(n, _checked(found, line), line)
    if "body" in found:
        return _of_batch(found, line, n)
    _refuse_settings(found, "own", _OWN_KEYS, line)
    return Prompt(_id_of(found, line, n), _content_of(found, "own", line), line, _wishes_of(found, line))


def name_of(text: str, otherwise: int | None) -> tuple[str | int | None, Api]:
    """What a line calls itself and whose words it is in, be it a request or not; None where it is not JSON."""
    try:
        found = parse_json(text)
    except ValueError:
        return None, "own"
    if not isinstance(found, dict):
        return otherwise, "own"
    given = (found.get(key) for key in ("id", "custom_id"))
    name = next((one for one in given if isinstance(one, str | int) and not isinstance(one, bool)), otherwise)
    return name, "completions" if "body" in found else "own"


def _of_batch(found: Mapping[str, Any], line: int, n: int) -> Prompt:
    unknown = sorted(found.keys() - _BATCH_KEYS)
    if unknown:
        _refuse(line, f"{unknown[0]!r:.60} is no key of a batch line")
    if found.get("method") not in (None, "POST"):
        _refuse(line, f"method {shown(found['method'])} is not POST")
    body, url = found["body"], found.get("url")
    if not isinstance(body, dict):
        _refuse(line, f"the body is {_kind(body)}")
    if url is None:
        url = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    if not isinstance(url, str) or url not in _APIS:
        _refuse(line, f"url {shown(url)} is none of {', '.join(_APIS)}")
    api = _APIS[url]
    _refuse_settings(body, api, frozenset(("prompt_ids",) if api == "completions" else ()), line)
    return Prompt(_id_of(found, line, n), _content_of(body, api, line), line, _wishes_of(body, line), api)


def _refuse_settings(given: Mapping[str, Any], api: Api, own: frozenset[str], line: int) -> None:
    """Raise PromptError for what this runtime cannot honour, or nobody knows."""
    if given.keys() <= own:
        return
    table = _TABLES[api]
    for name, parameter in asked(given, table, {REFUSED}).items():
        message = f"line {line}: {name} {shown(given[name])} cannot be honoured: {parameter.why}"
        raise PromptError("FP318", message, fix=f"leave {name} out of line {line}")
    unknown = [name for name in given if name not in table and name not in own and given[name] is not None]
    if unknown:
        idle = ", ".join(sorted(name for name, p in table.items() if p.verdict == IRRELEVANT))
        message = f"line {line}: {unknown[0]!r:.60} would be ignored; allowed is {_ALLOWED} and OpenAI's parameters"
        raise PromptError("FP319", message, fix=f"leave it out, or put it into metadata (not looked at: {idle})")


def _wishes_of(given: Mapping[str, Any], line: int) -> Wishes:
    try:
        return read_wishes(given)
    except ValueError as error:
        raise PromptError("FP320", f"line {line}: {error}", fix=f"correct line {line}, or leave it out") from None


def _id_of(found: Mapping[str, Any], line: int, n: int) -> str | int:
    names = [found[key] for key in ("id", "custom_id") if found.get(key) is not None]
    if len(names) > 1:
        _refuse(line, "it has both id and custom_id")
    given = names[0] if names else n
    if isinstance(given, bool) or not isinstance(given, str | int):
        _refuse(line, f"id {given!r:.60} is neither text nor a whole number")
    return given


def _content_of(holder: Mapping[str, Any], api: Api, line: int) -> Content:
    given = [key for key in _CONTENTS if key in holder]
    if len(given) != 1:
        seen = f"{' and '.join(given)} both" if given else f"the keys {', '.join(map(repr, holder)) or 'none'}"
        _refuse(line, f"it has {seen:.120}")
    if "messages" in holder:
        return _chat(holder["messages"], line)
    if api == "chat":
        _refuse(line, f"it has {given[0]}, and /v1/chat/completions wants messages")
    if "prompt_ids" in holder and not isinstance(holder["prompt_ids"], list):
        _refuse(line, f"prompt_ids is {_kind(holder['prompt_ids'])}, not a list")
    content = holder[given[0]]
    return _checked(_only(content, line) if given[0] == "prompt" else content, line)


def _only(content: Any, line: int) -> Any:
    """OpenAI's list of prompts, of which a line may have one: so each answer has a line."""
    if not (isinstance(content, list) and content and all(isinstance(one, str | list) for one in content)):
        return content
    if len(content) > 1:
        _refuse(line, f"it has {len(content)} prompts, one is allowed: give each a line of its own")
    return content[0]


def _chat(messages: Any, line: int) -> Chat:
    if not isinstance(messages, list) or not messages:
        _refuse(line, "messages is no list of messages, or an empty one")
    return Chat(tuple(_message(one, line) for one in messages))


def _message(message: Any, line: int) -> dict[str, str]:
    """Role and content, of which parts of text are joined."""
    if not isinstance(message, dict):
        _refuse(line, f"a message is {_kind(message)}")
    unknown = [key for key, value in message.items() if key not in _MESSAGE_KEYS and value not in (None, [])]
    if unknown:
        _refuse(line, f"a message has {unknown[0]!r:.60}, allowed are role, content and name")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_part(part, line) for part in content)
    found = {"role": message.get("role"), "content": content, "name": message.get("name")}
    for key in ("role", "content"):
        if not isinstance(found[key], str):
            _refuse(line, f"the {key} of a message is {_kind(found[key])}")
    return {key: value for key, value in found.items() if isinstance(value, str)}


def _part(part: Any, line: int) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        _refuse(line, "a message has parts that are not text")
    return str(part["text"])


def _checked(content: Any, line: int) -> str | tuple[int, ...]:
    if isinstance(content, list):
        if not content:
            _refuse(line, "it has no tokens")
        bad = [t for t in content if isinstance(t, bool) or not isinstance(t, int) or t < 0]
        if bad:
            _refuse(line, f"{shown(bad[0])} is not a token id")
        return tuple(content)
    if not isinstance(content, str):
        _refuse(line, f"the prompt is {_kind(content)}")
    return content


def _kind(value: Any) -> str:
    names = {dict: "an object", bool: "true or false", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _refuse(line: int, what: str) -> NoReturn:
    raise PromptError(
        "FP312", f"line {line}: {what}; allowed is {_ALLOWED}", fix=f"correct line {line}, or leave it out"
    )
