"""A tokenizer's file: what is looked at before it is believed, and how long its work may take.

Its rules are a program of the model's maker.  One that makes a text a thousand times longer ends the process for lack
of memory, one with a pattern that backtracks never ends, and the library's own faults are no ``Exception``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from flexplan.files import parse_json
from flexplan.limits import read_limited
from flexplan.problem.prompts.request_line import Prompt

T = TypeVar("T")

FILE = "tokenizer.json"
MOST_FILE_BYTES = 256 << 20
MOST_GROWTH = 1 << 12  # characters that one may become: longest tokens have some hundreds
MOST_SWOLLEN = 64 << 20  # characters of a text after that
PATIENCE_S = 60.0  # for a chunk of texts, which slow tokenizers read in a tenth of it
LOAD_PATIENCE_S = 600.0  # old files are converted, of large vocabularies for minutes

_CHUNK, _CHUNK_CHARACTERS = 1000, 1 << 20


def growth_of(path: Path) -> int:
    """Characters that one character of a text may become; ValueError for a file too large, no JSON, or that harms."""
    found = parse_json(read_limited(path, MOST_FILE_BYTES))
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, not an object")
    largest = 1
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        growth = 1
        for rule in _rules(found.get(part)):
            growth *= _growth(rule)
            if growth > MOST_GROWTH:
                raise ValueError(f"its {part} makes more than {MOST_GROWTH} characters of one")
        largest = max(largest, growth)
    return largest


def chunks(prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
    """Prompts that are read in one go: so few and so short that no honest tokenizer takes long over them."""
    first = characters = 0
    for n, prompt in enumerate(prompts):
        if n > first and (n - first == _CHUNK or characters + len(prompt.content) > _CHUNK_CHARACTERS):
            yield prompts[first:n]
            first, characters = n, 0
        characters += len(prompt.content)
    if prompts:
        yield prompts[first:]


def swollen(texts: Sequence[str], growth: int) -> str:
    """Says of a text which the tokenizer's rules would make too long to hold that it is so; else nothing."""
    longest = max(map(len, texts))
    return f"{longest} characters may become {growth} times as many" if longest * growth > MOST_SWOLLEN else ""


def lines_of(prompts: Sequence[Prompt]) -> str:
    """Where these prompts stand, for a message."""
    first, last = prompts[0].line, prompts[-1].line
    return f"line {first}" if len(prompts) == 1 else f"lines {first} to {last}"


def bounded(act: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
    """What ``act`` returns; TimeoutError where it takes too long, ValueError where it fails, however that is said.

    A thread that never ends is left behind: it ends with the process.
    """
    done: list[tuple[T | None, BaseException | None]] = []

    def work() -> None:
        try:
            done.append((act(), None))
        except BaseException as error:  # a panic of the library is no Exception
            done.append((None, error))

    thread = threading.Thread(target=work, name="flexplan-tokenize", daemon=True)
    thread.start()
    thread.join(patience_s)
    if not done:
        raise TimeoutError(f"it did not end within {patience_s:g} s: a pattern of its file backtracks")
    result, error = done[0]
    if error is not None:
        if isinstance(error, MemoryError):
            raise error
        raise ValueError(next(iter(str(error).splitlines()), "") or type(error).__name__) from error
    return result  # type: ignore[return-value]


def _rules(rule: Any) -> Iterator[dict[str, Any]]:
    """A rule, or those of a sequence."""
    pending = [rule]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            yield one
            for value in one.values():
                pending += value if isinstance(value, list) else []


def _growth(rule: dict[str, Any]) -> int:
    content, pattern = rule.get("content"), rule.get("pattern")
    if not isinstance(content, str):
        return 1
    shortest = len(pattern.get("String", "")) if isinstance(pattern, dict) else 1
    return max(1, len(content) // max(1, shortest))
