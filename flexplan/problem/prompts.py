"""Prompts as people have them: plain text, one prompt a line, or JSON Lines; the whole input is read first.

A JSON line is an object with ``prompt`` (text or token ids) or ``prompt_ids``, and maybe ``id``; or a line
of an OpenAI batch (``custom_id``, ``body.prompt``); or a text; or a list of token ids.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from flexplan.errors import PromptError
from flexplan.files import parse_json

_TEXT_SUFFIXES = frozenset((".txt", ".text"))
_JSON_SUFFIXES = frozenset((".jsonl", ".ndjson", ".json"))
_ALLOWED = 'text, {"prompt": "..."} or {"prompt_ids": [1, 2]}'
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: text or token ids; ``line`` is its line in the input, counted from 1."""

    id: str | int
    content: str | tuple[int, ...]
    line: int = 0


def read_prompts(source: str | Path) -> tuple[Prompt, ...]:
    """All prompts of a file, ``-`` is standard input; a PromptError names the line that is wrong."""
    return parse_prompts(_read(source), Path(source).suffix.lower())


def parse_prompts(data: bytes, suffix: str = "") -> tuple[Prompt, ...]:
    """The prompts in these bytes; without a telling suffix the first line decides between text and JSON.

    >>> parse_prompts(b"Hello\\nWorld\\n")[1]
    Prompt(id=1, content='World', line=2)
    """
    lines = list(_lines(data))
    as_json = suffix in _JSON_SUFFIXES or (suffix not in _TEXT_SUFFIXES and bool(lines) and _is_json(lines[0][1]))
    prompts = [_of_json(text, line, n) if as_json else Prompt(n, text, line) for n, (line, text) in enumerate(lines)]
    _refuse_twins(prompts)
    return tuple(prompts)


def _read(source: str | Path) -> bytes:
    if str(source) == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(source).read_bytes()
    except OSError as error:
        message = f"prompts {source} cannot be read: {error.strerror or error}"
        raise PromptError("FP310", message, fix="give a text or JSONL file, or - for standard input") from None


def _lines(data: bytes) -> Iterator[tuple[int, str]]:
    """(number, text) of every line that is not blank; only a line feed ends a line."""
    for number, raw in enumerate(data.removeprefix(_BOM).split(b"\n"), 1):
        try:
            text = raw.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            message = (
                f"line {number}: byte 0x{raw[error.start]:02x} at {error.start} is not UTF-8, allowed is UTF-8 text"
            )
            raise PromptError("FP311", message, fix="convert the file: iconv -t UTF-8") from None
        if text.strip():
            yield number, text


def _is_json(text: str) -> bool:
    try:
        return isinstance(parse_json(text), dict | list | str)
    except ValueError:
        return False


def _of_json(text: str, line: int, n: int) -> Prompt:
    try:
        found = parse_json(text)
    except ValueError as error:
        _refuse(line, f"not JSON: {error}")
    if isinstance(found, dict):
        return Prompt(_id_of(found, line, n), _content_of(found, line), line)
    return Prompt(n, _checked(found, line), line)


def _id_of(found: dict[str, Any], line: int, n: int) -> str | int:
    given = found.get("id", found.get("custom_id", n))
    if isinstance(given, bool) or not isinstance(given, str | int):
        _refuse(line, f"id {given!r:.60} is neither text nor a whole number")
    return given


def _content_of(found: dict[str, Any], line: int) -> str | tuple[int, ...]:
    body = found.get("body")
    holder = body if isinstance(body, dict) else found
    given = [holder[key] for key in ("prompt", "prompt_ids") if key in holder]
    if len(given) != 1:
        seen = "both prompt and prompt_ids" if given else f"the keys {', '.join(map(repr, holder)) or 'none'}"
        _refuse(line, f"it has {seen:.120}")
    return _checked(given[0], line)


def _checked(content: Any, line: int) -> str | tuple[int, ...]:
    if isinstance(content, list):
        if not content:
            _refuse(line, "it has no tokens")
        bad = [t for t in content if isinstance(t, bool) or not isinstance(t, int) or t < 0]
        if bad:
            _refuse(line, f"{bad[0]!r:.60} is not a token id")
        return tuple(content)
    if not isinstance(content, str):
        _refuse(line, f"the prompt is {_kind(content)}")
    if any(0xD800 <= ord(c) < 0xE000 for c in content):
        _refuse(line, "the text has half of a surrogate pair, which is no character")
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
