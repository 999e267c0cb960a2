"""Prompts as people have them: text, a prompt a line; JSON Lines; lines of an OpenAI batch; or one JSON array.

A JSON line is an object with ``prompt`` (text or token ids) or ``prompt_ids``, maybe ``id`` and ``max_tokens``; a line
of a batch (``custom_id``, ``body``); a text; or a list of token ids.  What else stands there is refused by name.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from flexplan.errors import PromptError, UsageError
from flexplan.files import parse_json
from flexplan.limits import MOST_NEW_TOKENS, regular, shown
from flexplan.parameters import CHAT, COMPLETIONS, IRRELEVANT, REFUSED, Parameter, asked

FORMATS = ("auto", "text", "jsonl", "openai")
MOST_LINE_BYTES = 8 << 20  # a million tokens of text
MOST_ARRAY_BYTES = 64 << 20  # of one JSON array, which is read whole

_TEXT_SUFFIXES = frozenset((".txt", ".text"))
_JSON_SUFFIXES = frozenset((".jsonl", ".ndjson", ".json"))
_TABLES = frozenset((".csv", ".tsv", ".parquet", ".xlsx"))
_ALLOWED = 'text, {"prompt": "..."} or {"prompt_ids": [1, 2]}'
_BOM = b"\xef\xbb\xbf"
_MARKS = {b"\x1f\x8b": "gzip", b"PAR1": "Parquet", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"PK\x03\x04": "zip"}
_BATCH_KEYS = frozenset(("custom_id", "method", "url", "body"))
_BODIES = {"/v1/completions": COMPLETIONS, "/v1/chat/completions": CHAT}
_OWN_KEYS = frozenset(("id", "prompt", "prompt_ids", "max_new_tokens"))
_NEW_TOKENS = ("max_tokens", "max_new_tokens", "max_completion_tokens")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: text or token ids; ``line`` is its line in the input, counted from 1.

    ``max_new_tokens`` is what its own line asks for; ``greedy`` whether it asks for temperature 0.
    """

    id: str | int
    content: str | tuple[int, ...]
    line: int = 0
    max_new_tokens: int | None = None
    greedy: bool = field(default=False, repr=False)


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no request: its place among the requests, counted from 0, and what is wrong with it."""

    place: int
    line: int
    text: str
    error: PromptError


def read_prompts(source: str | Path, form: str = "auto", bad: list[BadLine] | None = None) -> tuple[Prompt, ...]:
    """All prompts of a file, ``-`` is standard input; a PromptError names the line that is wrong.

    ``form`` is one of ``FORMATS``; auto goes by the file's ending, else by its first line.  Where ``bad`` is given,
    lines that are no request are left out and put there; it tells the places of all others, too.
    """
    if form not in FORMATS:
        raise UsageError("FP172", f"--format {form!r}", fix=f"the formats are {', '.join(FORMATS)}")
    suffix = Path(source).suffix.lower()
    if suffix in _TABLES and form == "auto":
        message = f"prompts {source}: a table ({suffix}) is not read"
        raise PromptError("FP316", message, fix="write JSON Lines, or say --format text if each line is a prompt")
    try:
        with _opened(source) as file:
            return _parsed(file, suffix, form, bad)
    except (OSError, ValueError) as error:
        message = f"prompts {source} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise PromptError("FP310", message, fix="give a text or JSONL file, or - for standard input") from None


def parse_prompts(data: bytes, suffix: str = "", form: str = "auto") -> tuple[Prompt, ...]:
    """The prompts in these bytes; without a telling suffix the first line decides between text and JSON.

    >>> parse_prompts(b"Hello\\nWorld\\n")[1]
    Prompt(id=1, content='World', line=2, max_new_tokens=None)
    """
    return _parsed(BytesIO(data), suffix, form)


def refuse_greedy(prompts: Iterable[Prompt]) -> None:
    """Raise PromptError for a line that asks for temperature 0, where tokens are to be drawn."""
    for prompt in prompts:
        if prompt.greedy:
            message = f"line {prompt.line}: temperature 0 cannot be honoured: --do-sample draws the tokens of all lines"
            raise PromptError("FP318", message, fix=f"leave --do-sample out, or temperature out of line {prompt.line}")


def new_tokens_of(prompts: Iterable[Prompt], otherwise: int, flag: str = "") -> tuple[int, ...]:
    """The most new tokens of each prompt; those that say nothing ask for ``otherwise``.

    ``flag`` is what was typed to ask for ``otherwise``: a line that asks for another number is then refused.
    """
    found = []
    for prompt in prompts:
        wanted = otherwise if prompt.max_new_tokens is None else prompt.max_new_tokens
        if flag and wanted != otherwise:
            message = f"line {prompt.line} asks for {wanted} new tokens, {flag} for {otherwise}"
            raise PromptError("FP317", message, fix=f"leave {flag} out, or the number in the lines")
        found.append(wanted)
    return tuple(found)


# -- lines -------------------------------------------------------------------------------------------------------
def _opened(source: str | Path) -> AbstractContextManager[BinaryIO]:
    if str(source) == "-":
        return nullcontext(sys.stdin.buffer)
    return open(str(source), "rb", opener=regular)


def _parsed(file: BinaryIO, suffix: str, form: str, bad: list[BadLine] | None = None) -> tuple[Prompt, ...]:
    lines = _lines(file)
    first = next(lines, None)
    if first is None:
        return ()
    every = chain([first], lines)
    is_text = form == "text" or (form == "auto" and suffix in _TEXT_SUFFIXES)
    as_json = form in ("jsonl", "openai") or suffix in _JSON_SUFFIXES or _is_json(first[1])
    if is_text or not (as_json or _opens_array(first[1])):
        prompts = [Prompt(n, text, line) for n, (line, text) in enumerate(every)]
    elif _opens_array(first[1]):
        prompts = list(_made(_array(every), lambda found, line, n: _of_json(found, line, n, form), bad))
    else:
        prompts = list(_made(every, lambda text, line, n: _of_json(_loaded(text, line), line, n, form), bad))
    _refuse_twins(prompts)
    return tuple(prompts)


def _made(
    lines: Iterable[tuple[int, Any]], make: Callable[[Any, int, int], Prompt], bad: list[BadLine] | None
) -> Iterator[Prompt]:
    """A prompt a line; what is none goes to ``bad`` where there is such a list."""
    for n, (line, found) in enumerate(lines):
        try:
            yield make(found, line, n)
        except PromptError as error:
            if bad is None:
                raise
            bad.append(BadLine(n, line, found if isinstance(found, str) else json.dumps(found), error))


def _lines(file: BinaryIO) -> Iterator[tuple[int, str]]:
    """(number, text) of every line that is not blank; only a line feed ends a line."""
    number = 0
    while raw := file.readline(MOST_LINE_BYTES + 1):
        number += 1
        if number == 1 and (kind := next((name for mark, name in _MARKS.items() if raw.startswith(mark)), None)):
            raise PromptError("FP316", f"this is {kind}, not lines of text", fix="unpack or convert it first")
        if len(raw) > MOST_LINE_BYTES:
            message = f"line {number} is longer than {MOST_LINE_BYTES >> 20} MiB"
            raise PromptError("FP315", message, fix="a prompt is a line: put a line feed after each")
        try:
            text = (raw.removeprefix(_BOM) if number == 1 else raw).removesuffix(b"\n").removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            byte = f"byte 0x{error.object[error.start]:02x} at {error.start}"
            message = f"line {number}: {byte} is not UTF-8, allowed is UTF-8 text"
            raise PromptError("FP311", message, fix="convert the file: iconv -t UTF-8") from None
        if text.strip():
            yield number, text


def _is_json(text: str) -> bool:
    try:
        return isinstance(parse_json(text), dict | list | str)
    except ValueError:
        return False


def _opens_array(text: str) -> bool:
    """Is this the beginning of one JSON array of prompts, not a line of token ids, nor text in brackets?"""
    if not text.lstrip().startswith("["):
        return False
    try:
        found = parse_json(text)
    except ValueError:
        return re.fullmatch(r'\s*\[\s*(\{\s*".*)?', text) is not None
    return bool(found) and isinstance(found[0], dict | str | list)


def _array(lines: Iterable[tuple[int, str]]) -> list[tuple[int, Any]]:
    """The prompts of a JSON array, and the line that each begins on."""
    numbers, texts, size = list[int](), list[str](), 0
    for number, text in lines:
        numbers.append(number)
        texts.append(text)
        size += len(text)
        if size > MOST_ARRAY_BYTES:
            message = f"line {number}: a JSON array of more than {MOST_ARRAY_BYTES >> 20} MiB"
            raise PromptError("FP315", message, fix="write JSON Lines: an object a line")
    whole = "\n".join(texts)
    found = _loaded(whole, numbers[0])
    assert isinstance(found, list)  # it begins with a bracket
    return list(zip(_begins(whole, numbers), found, strict=True))


def _begins(whole: str, numbers: Sequence[int]) -> Iterator[int]:
    """The line that each member of an array begins on; ``whole`` was read as JSON before, and is right."""
    read, blank = json.JSONDecoder().raw_decode, re.compile(r"[\s,]*")
    at = whole.index("[") + 1
    line = whole.count("\n", 0, at)
    while True:
        end = blank.match(whole, at).end()  # type: ignore[union-attr]
        line += whole.count("\n", at, end)
        if whole[end] == "]":
            return
        yield numbers[line]
        _, at = read(whole, end)
        line += whole.count("\n", end, at)


# -- JSON --------------------------------------------------------------------------------------------------------
def _loaded(text: str, line: int) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        _refuse(line, f"not JSON: {error}")


def _of_json(found: Any, line: int, n: int, form: str) -> Prompt:
    if form == "openai" and not (isinstance(found, dict) and "body" in found):
        _refuse(line, "it is no line of an OpenAI batch: it has no body")
    if not isinstance(found, dict):
        return Prompt(n, _checked(found, line), line)
    if "body" in found:
        return _of_batch(found, line, n)
    _refuse_settings(found, COMPLETIONS, _OWN_KEYS | {"custom_id"}, line)
    return Prompt(_id_of(found, line, n), _content_of(found, line), line, _new_tokens_of(found, line), _greedy(found))


def _of_batch(found: Mapping[str, Any], line: int, n: int) -> Prompt:
    """A line of an OpenAI batch."""
    unknown = sorted(found.keys() - _BATCH_KEYS)
    if unknown:
        _refuse(line, f"{unknown[0]!r:.60} is no key of a batch line")
    if found.get("method") not in (None, "POST"):
        _refuse(line, f"method {shown(found['method'])} is not POST")
    body, url = found["body"], found.get("url") or "/v1/completions"
    if not isinstance(url, str) or url not in _BODIES:
        _refuse(line, f"url {shown(url)} is none of {', '.join(_BODIES)}")
    if not isinstance(body, dict):
        _refuse(line, f"the body is {_kind(body)}")
    _refuse_settings(body, CHAT if "messages" in body else _BODIES[url], frozenset(("prompt_ids",)), line)
    return Prompt(_id_of(found, line, n), _content_of(body, line), line, _new_tokens_of(body, line), _greedy(body))


def _greedy(found: Mapping[str, Any]) -> bool:
    return found.get("temperature") is not None  # any other than 0 was refused


def _refuse_settings(given: Mapping[str, Any], table: Mapping[str, Parameter], own: frozenset[str], line: int) -> None:
    """Raise PromptError for what this runtime cannot honour, or nobody knows."""
    if given.keys() <= own:
        return
    for name, parameter in asked(given, table, {REFUSED}).items():
        message = f"line {line}: {name} {shown(given[name])} cannot be honoured: {parameter.why}"
        raise PromptError("FP318", message, fix=f"leave {name} out of line {line}")
    unknown = [name for name in given if name not in table and name not in own and given[name] is not None]
    if unknown:
        idle = ", ".join(sorted(name for name, p in table.items() if p.verdict == IRRELEVANT))
        message = f"line {line}: {unknown[0]!r:.60} would be ignored; allowed is {_ALLOWED} and OpenAI's parameters"
        raise PromptError("FP319", message, fix=f"leave it out, or put it into metadata (not looked at: {idle})")


def _id_of(found: Mapping[str, Any], line: int, n: int) -> str | int:
    names = [found[key] for key in ("id", "custom_id") if found.get(key) is not None]
    if len(names) > 1:
        _refuse(line, "it has both id and custom_id")
    given = names[0] if names else n
    if isinstance(given, bool) or not isinstance(given, str | int):
        _refuse(line, f"id {given!r:.60} is neither text nor a whole number")
    return given


def _new_tokens_of(found: Mapping[str, Any], line: int) -> int | None:
    given = {name: found[name] for name in _NEW_TOKENS if found.get(name) is not None}
    if len(set(map(repr, given.values()))) > 1:
        _refuse(line, f"it says {' and '.join(given)}")
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_NEW_TOKENS:
            _refuse(line, f"{name} {shown(value)} is not a number of tokens from 1 to {MOST_NEW_TOKENS}")
    return next(iter(given.values()), None)


def _content_of(holder: Mapping[str, Any], line: int) -> str | tuple[int, ...]:
    given = [holder[key] for key in ("prompt", "prompt_ids") if key in holder]
    if len(given) != 1:
        seen = "both prompt and prompt_ids" if given else f"the keys {', '.join(map(repr, holder)) or 'none'}"
        _refuse(line, f"it has {seen:.120}")
    if "prompt_ids" in holder and not isinstance(holder["prompt_ids"], list):
        _refuse(line, f"prompt_ids is {_kind(holder['prompt_ids'])}, not a list")
    return _checked(given[0], line)


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


def _refuse_twins(prompts: list[Prompt]) -> None:
    counts = Counter(prompt.id for prompt in prompts)
    twins = [str(name) for name, count in counts.items() if count > 1]
    if twins:
        message = f"{len(twins)} ids stand there more than once: {', '.join(twins[:10])}; allowed is once"
        raise PromptError("FP313", message, fix="give every prompt an id of its own, or none at all")
