"""Prompts as people have them: text, a prompt a line; JSON Lines; lines of an OpenAI batch; or one JSON array.

A JSON line is an object with ``prompt`` (text or token ids), ``prompt_ids`` or ``messages``, maybe ``id`` and what it
asks for beside; a line of a batch (``custom_id``, ``body``); a text; or a list of token ids.  Any may be gzipped.
"""

from __future__ import annotations

import json
import re
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

from flexplan.errors import PromptError, UsageError
from flexplan.files import parse_json
from flexplan.problem.prompts.index import Make, Name, Prompts
from flexplan.problem.prompts.lines import Input, Line, input_of
from flexplan.problem.prompts.names import clash, clashes
from flexplan.problem.prompts.request_line import Api, Prompt, loaded, name_of, prompt_of

FORMATS = ("auto", "text", "jsonl", "openai")
MOST_ARRAY_BYTES = 64 << 20  # of one JSON array, which is read whole

_TEXT_SUFFIXES = frozenset((".txt", ".text"))
_JSON_SUFFIXES = frozenset((".jsonl", ".ndjson", ".json"))
_TABLES = frozenset((".csv", ".tsv", ".parquet", ".xlsx"))
_KEYS_OF_REQUESTS = ("prompt", "prompt_ids", "messages", "custom_id")


def read_prompts(source: str | Path, form: str = "auto", *, strict: bool = True) -> Prompts:
    """All prompts of a file, ``-`` is standard input; a PromptError names the line that is wrong.

    ``form`` is one of ``FORMATS``; auto goes by the file's ending, else by its first line; a text
    all of whose lines are requests in JSON is refused.  Without ``strict`` lines
    that are no request are put aside (`Prompts.bad`), and only what concerns the whole file is raised.
    """
    if form not in FORMATS:
        raise UsageError("FP172", f"--format {form!r}", fix=f"the formats are {', '.join(FORMATS)}")
    path = Path(source)
    suffix = (Path(path.stem) if path.suffix.lower() == ".gz" else path).suffix.lower()
    if suffix in _TABLES and form == "auto":
        message = f"prompts {source}: a table ({suffix}) is not read"
        raise PromptError("FP316", message, fix="write JSON Lines, or say --format text if each line is a prompt")

    def looked_at(lines: Iterable[Line]) -> Iterator[Line]:
        return _refusing_requests(lines, source) if form == "auto" and suffix in _TEXT_SUFFIXES else iter(lines)

    try:
        return _parsed(Input.of(source), suffix, form, strict, looked_at)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        message = f"prompts {source} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise PromptError("FP310", message, fix="give a text or JSONL file, or - for standard input") from None


def parse_prompts(data: bytes, suffix: str = "", form: str = "auto") -> tuple[Prompt, ...]:
    """The prompts in these bytes; without a telling suffix the first line decides between text and JSON.

    >>> parse_prompts(b"Hello\\nWorld\\n")[1].content
    'World'
    """
    return tuple(_parsed(Input(BytesIO(data)), suffix, form))


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
def _parsed(
    source: Input,
    suffix: str,
    form: str,
    strict: bool = True,
    looked_at: Callable[[Iterable[Line]], Iterator[Line]] = iter,
) -> Prompts:
    """``looked_at`` may have a word to say about lines of text."""
    lines = source.lines()
    first = next(lines, None)
    if first is None:
        return Prompts(source, _of_text, _name_of_text)
    every, begins = chain([first], lines), first.raw.decode(errors="replace")
    is_text = form == "text" or (form == "auto" and suffix in _TEXT_SUFFIXES)
    as_json = form in ("jsonl", "openai") or suffix in _JSON_SUFFIXES or _is_json(begins)
    if is_text or not (as_json or _opens_array(begins)):
        return _taken(source, _of_text, _name_of_text, looked_at(every), strict)
    spread: Iterable[Line] = every
    if _opens_array(begins):
        source, spread = _spread(_array(every))

    def of_json(line: Line, place: int) -> Prompt:
        return prompt_of(loaded(line.text, line.number), line.number, place, form)

    return _taken(source, of_json, _name_of_json, spread, strict)


def _of_text(line: Line, place: int) -> Prompt:
    return Prompt(place, line.text, line.number)


def _refusing_requests(lines: Iterable[Line], source: str | Path) -> Iterator[Line]:
    """Raises PromptError behind lines of text all of which are requests in JSON: a night of the wrong prompts."""
    only_requests = True
    for line in lines:
        only_requests = only_requests and _is_request(line.text)
        yield line
    if only_requests:
        message = f"prompts {source}: every line is a request in JSON, and the file's ending says that it is text"
        raise PromptError("FP327", message, fix="say --format jsonl (or openai), or --format text if it is meant so")


def _is_request(line: str) -> bool:
    try:
        found = parse_json(line) if line.lstrip().startswith("{") else None
    except ValueError:
        return False
    return isinstance(found, dict) and not found.keys().isdisjoint(_KEYS_OF_REQUESTS)


def _name_of_text(line: Line, otherwise: int | None) -> tuple[int | None, Api]:
    return otherwise, "own"


def _name_of_json(line: Line, otherwise: int | None) -> tuple[str | int | None, Api]:
    try:
        return name_of(line.text, otherwise)
    except PromptError:
        return None, "own"


def _taken(source: Input, make: Make, name: Name, lines: Iterable[Line], strict: bool) -> Prompts:
    """A prompt a line; what is none is put aside, and has a name all the same, as no two may have one."""
    found, names = _read(Prompts(source, make, name), lines, strict)
    alike = clashes(names, found)
    if not alike:
        return found

    def apart(line: Line, place: int) -> Prompt:
        prompt = make(line, place)
        if place in alike:
            raise clash(name, line, place, found.at_place(alike[place]))
        return prompt

    def nameless(line: Line, otherwise: int | None) -> tuple[str | int | None, Api]:
        called, api = name(line, otherwise)
        return (None if line.offset in offsets else called), api

    offsets = {found.at_place(place).offset for place in alike}
    again = (found.at_place(place) for place in range(len(names)))
    return _read(Prompts(source, apart, nameless), again, strict)[0]


def _read(found: Prompts, lines: Iterable[Line], strict: bool) -> tuple[Prompts, array[int]]:
    """All lines, and hashes of their names."""
    names = array("q")
    for place, line in enumerate(lines):
        name: str | int | None
        try:
            name = found.add(line, place)
        except PromptError:
            if strict:
                raise
            found.bad.add(line, place)
            name, _ = found.bad.named(line, place)
        names.append(hash(f"no name at {place}" if name is None else str(name)))
    return found, names


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


def _array(lines: Iterable[Line]) -> list[tuple[int, Any]]:
    """The prompts of a JSON array, and the line that each begins on."""
    numbers, texts, size = list[int](), list[str](), 0
    for line in lines:
        numbers.append(line.number)
        texts.append(line.text)
        size += len(line.raw)
        if size > MOST_ARRAY_BYTES:
            message = f"line {line.number}: a JSON array of more than {MOST_ARRAY_BYTES >> 20} MiB"
            raise PromptError("FP315", message, fix="write JSON Lines: an object a line")
    whole = "\n".join(texts)
    found = loaded(whole, numbers[0])
    assert isinstance(found, list)  # it begins with a bracket
    return list(zip(_begins(whole, numbers), found, strict=True))


def _spread(members: Sequence[tuple[int, Any]]) -> tuple[Input, Iterator[Line]]:
    """The members of an array, each as a line of its own with the number of the one that it began on."""
    source = input_of(json.dumps(found).encode() for _, found in members)
    return source, (line._replace(number=number) for line, (number, _) in zip(source.lines(), members, strict=True))


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
