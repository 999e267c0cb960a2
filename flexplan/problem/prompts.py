"""Prompts as people have them: text, a prompt a line; JSON Lines; lines of an OpenAI batch; or one JSON array.

A JSON line is an object with ``prompt`` (text or token ids), ``prompt_ids`` or ``messages``, maybe ``id`` and what it
asks for beside; a line of a batch (``custom_id``, ``body``); a text; or a list of token ids.  Any may be gzipped.
"""

from __future__ import annotations

import json
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, overload

from flexplan.errors import PromptError, UsageError
from flexplan.files import parse_json
from flexplan.problem.prompt_lines import Input, Line, input_of
from flexplan.problem.request_line import Api, Chat, Prompt, loaded, name_of, prompt_of

FORMATS = ("auto", "text", "jsonl", "openai")
MOST_ARRAY_BYTES = 64 << 20  # of one JSON array, which is read whole

_TEXT_SUFFIXES = frozenset((".txt", ".text"))
_JSON_SUFFIXES = frozenset((".jsonl", ".ndjson", ".json"))
_TABLES = frozenset((".csv", ".tsv", ".parquet", ".xlsx"))

Make = Callable[[str, int, int], Prompt]  # of a line's text, its number and its place


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no request: its place among the requests, counted from 0, and what is wrong with it.

    ``id`` is what it calls itself, else its place; ``digest`` is of its text.
    """

    place: int
    line: int
    id: str | int
    api: Api
    digest: str
    error: PromptError


class Prompts(Sequence[Prompt]):
    """The prompts of an input, each read again when it is looked at: of a million there is an index of 50 bytes each.

    ``places`` are those among all lines, bad ones too, counted from 0.
    """

    def __init__(self, source: Input, make: Make) -> None:
        self.places = array("Q")
        self.num_characters = 0
        self._source, self._make = source, make
        self._lines, self._offsets, self._sizes, self._checks = array("Q"), array("Q"), array("I"), array("I")
        self._digests = array("Q")
        self._names = array("q")  # of ids, by which twins are found

    def add(self, line: Line, place: int) -> None:
        """One more; raises PromptError where the line is none."""
        prompt, raw = self._make(line.text, line.number, place), line.text.encode()
        self.places.append(place)
        self._lines.append(line.number)
        self._offsets.append(line.offset)
        self._sizes.append(len(raw))
        self._checks.append(zlib.crc32(raw))
        self._digests.append(int(digest_of(prompt), 16))
        self._names.append(hash(prompt.id))
        self.num_characters += len(prompt.content)

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, at: int) -> Prompt: ...
    @overload
    def __getitem__(self, at: slice) -> list[Prompt]: ...
    def __getitem__(self, at: int | slice) -> Prompt | list[Prompt]:
        if isinstance(at, slice):
            return [self[n] for n in range(*at.indices(len(self)))]
        raw = self._source.text(self._offsets[at], self._sizes[at])
        if zlib.crc32(raw) != self._checks[at]:
            message = f"line {self._lines[at]} is not what it was when the prompts were read"
            raise PromptError("FP322", message, fix="leave the file as it is until the job ends")
        return self._make(raw.decode(), self._lines[at], self.places[at])

    def digest(self, at: int) -> str:
        """What a request asks for, in short."""
        return f"{self._digests[at]:016x}"

    def refuse_twins(self) -> None:
        """Raise PromptError where an id stands there more than once."""
        import numpy as np  # not before somebody reads prompts: it takes as long as all of flexplan

        names = np.frombuffer(self._names, dtype=np.int64) if self._names else np.empty(0, np.int64)
        found, counts = np.unique(names, return_counts=True)
        if len(found) < len(names):
            doubled = np.flatnonzero(np.isin(names, found[counts > 1]))
            counted = Counter(self[n].id for n in doubled.tolist())
            _refuse_twins([str(name) for name, count in counted.items() if count > 1])
        self._names = array("q")


def digest_of(prompt: Prompt) -> str:
    """16 hexadecimal digits of what a request asks for."""
    content = list(prompt.content.messages) if isinstance(prompt.content, Chat) else prompt.content
    return _digest([prompt.id, content, prompt.api, prompt.wishes.digested])


def _digest(asked: Sequence[Any]) -> str:
    from flexplan.journal import request_digest  # nobody needs a journal to plan

    return request_digest(asked)


def read_prompts(source: str | Path, form: str = "auto", bad: list[BadLine] | None = None) -> Prompts:
    """All prompts of a file, ``-`` is standard input; a PromptError names the line that is wrong.

    ``form`` is one of ``FORMATS``; auto goes by the file's ending, else by its first line.  Where ``bad`` is given,
    lines that are no request are left out and put there; `Prompts.places` tells the places of all others.
    """
    if form not in FORMATS:
        raise UsageError("FP172", f"--format {form!r}", fix=f"the formats are {', '.join(FORMATS)}")
    path = Path(source)
    suffix = (Path(path.stem) if path.suffix.lower() == ".gz" else path).suffix.lower()
    if suffix in _TABLES and form == "auto":
        message = f"prompts {source}: a table ({suffix}) is not read"
        raise PromptError("FP316", message, fix="write JSON Lines, or say --format text if each line is a prompt")
    try:
        return _parsed(Input.of(source), suffix, form, bad)
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
def _parsed(source: Input, suffix: str, form: str, bad: list[BadLine] | None = None) -> Prompts:
    lines = source.lines()
    first = next(lines, None)
    if first is None:
        return Prompts(source, _of_text)
    every: Iterable[Line] = chain([first], lines)
    is_text = form == "text" or (form == "auto" and suffix in _TEXT_SUFFIXES)
    as_json = form in ("jsonl", "openai") or suffix in _JSON_SUFFIXES or _is_json(first.text)
    if is_text or not (as_json or _opens_array(first.text)):
        return _taken(source, every, _of_text, bad)
    if _opens_array(first.text):
        source, every = _spread(_array(every))
    return _taken(source, every, lambda text, line, n: prompt_of(loaded(text, line), line, n, form), bad)


def _of_text(text: str, line: int, n: int) -> Prompt:
    return Prompt(n, text, line)


def _taken(source: Input, lines: Iterable[Line], make: Make, bad: list[BadLine] | None) -> Prompts:
    """A prompt a line; what is none goes to ``bad`` where there is such a list."""
    found = Prompts(source, make)
    for place, line in enumerate(lines):
        try:
            found.add(line, place)
        except PromptError as error:
            if bad is None:
                raise
            name, api = name_of(line.text, place)
            error.__context__ = None  # nor the frames that it was raised in: of a million each would hold its line
            digest = _digest(["bad", line.text])
            bad.append(BadLine(place, line.number, name, api, digest, error.with_traceback(None)))
    found.refuse_twins()
    return found


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
    for number, _, text in lines:
        numbers.append(number)
        texts.append(text)
        size += len(text)
        if size > MOST_ARRAY_BYTES:
            message = f"line {number}: a JSON array of more than {MOST_ARRAY_BYTES >> 20} MiB"
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


def _refuse_twins(twins: Sequence[str]) -> None:
    if twins:
        message = f"{len(twins)} ids stand there more than once: {', '.join(twins[:10])}; allowed is once"
        raise PromptError("FP313", message, fix="give every prompt an id of its own, or none at all")
