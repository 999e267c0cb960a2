"""A tokenizer's file: what is looked at before it is believed, and how long its work may take.

Its rules are a program of the model's maker.  One that makes a text a thousand times longer ends the process for lack
of memory, one with a pattern that backtracks never ends, and the library's own faults are no ``Exception``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from flexplan.files import parse_json
from flexplan.limits import read_limited

T = TypeVar("T")

FILE = "tokenizer.json"
MOST_FILE_BYTES = 256 << 20
MOST_GROWTH = 1 << 12  # characters that one may become: longest tokens have some hundreds
MOST_SWOLLEN = 64 << 20  # characters of a text after that
CHUNK = 1000  # texts that are read in one go, each within the time below
PATIENCE_S = 60.0


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


def bounded(act: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
    """What ``act`` returns; ValueError where it takes too long or fails, however the library says so.

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
        raise ValueError(f"it did not end within {patience_s:g} s: a pattern of its file backtracks")
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
