"""Expected lengths: how long answers are likely to be, which nobody knows but for the most that is allowed.

They are kept as lengths in order that stand for equal parts of all answers.  A mean alone is taken for answers that
end at each token as likely as at any other, which lengths of real services are not far from.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from math import ceil, exp, log
from pathlib import Path
from typing import NoReturn, TextIO

from flexplan.errors import PromptError, UsageError
from flexplan.limits import MOST_NEW_TOKENS, regular

Expected = float | Sequence[int] | Mapping[int, int] | str | Path

MOST_EXPECTED = 256  # lengths that stand for all
_MOST_SEEN = 1 << 40  # of one length, in a histogram
_COLUMNS = "new_tokens", "count"


def expected_lens_of(expected: Expected, most: int) -> tuple[int, ...]:
    """At most `MOST_EXPECTED` lengths, ascending, that stand for what is expected of answers of up to ``most`` tokens.

    ``expected`` is a mean, lengths that were seen, a histogram {length: how many}, or a file as `read_gen_lens` takes
    it; nothing of an empty list.

    >>> expected_lens_of([7, 3, 5], 100), expected_lens_of({10: 2, 30: 1}, 100)
    ((3, 5, 7), (10, 10, 30))
    """
    if isinstance(expected, str | Path):
        expected = read_gen_lens(expected)
    if isinstance(expected, Mapping):
        return _parts(expected)
    if isinstance(expected, int | float):
        return _of_mean(float(expected), most)
    seen = dict[int, int]()
    for length in expected:
        seen[length] = seen.get(length, 0) + 1
    return _parts(seen) if seen else ()


def read_gen_lens(source: str | Path) -> dict[int, int]:
    """How often each length of an answer was seen, by a file: a number a line, or CSV with new_tokens, maybe count.

    PromptError names the line that is wrong.
    """
    try:
        with open(str(source), newline="", encoding="utf-8", opener=regular) as file:
            found = dict[int, int]()
            for length, count in _rows(file):
                found[length] = found.get(length, 0) + count
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        _refuse(f"lengths of answers {source} cannot be read: {error}", "give a list of numbers, or a CSV file")
    if not found:
        _refuse(f"{source} has no lengths of answers", "write one in each line")
    return found


def _rows(file: TextIO) -> Iterator[tuple[int, int]]:
    """A length and how many of it, line by line; the first line may name columns."""
    places: list[int | None] = [0, None]
    for n, row in enumerate(csv.reader(file)):
        if n == 0 and _COLUMNS[0] in row:
            places = [row.index(name) if name in row else None for name in _COLUMNS]
        elif row:
            values = ["1" if at is None else row[at] if at < len(row) else "" for at in places]
            yield _number(values[0], MOST_NEW_TOKENS, n + 1), _number(values[1], _MOST_SEEN, n + 1)


def _number(text: str, most: int, line: int) -> int:
    value = int(text) if text.strip().isdecimal() and len(text) < 20 else 0
    if not 1 <= value <= most:
        what = f"line {line}: {text!r:.40} is not a number from 1 to {most}"
        _refuse(what, f"correct line {line}: a length, or columns {','.join(_COLUMNS)}")
    return value


def _parts(seen: Mapping[int, int]) -> tuple[int, ...]:
    """All of few, or the middles of equal parts of many; the longest always."""
    lens, total = sorted(seen), sum(seen.values())
    count, ends, at = min(total, MOST_EXPECTED), list(accumulate(seen[length] for length in lens)), 0
    found = list[int]()
    for part in range(count):
        while ends[at] <= (2 * part + 1) * total // (2 * count):
            at += 1
        found.append(lens[at])
    return (*found[:-1], lens[-1])


def _of_mean(mean: float, most: int) -> tuple[int, ...]:
    """Lengths whose mean this is, none above ``most``, the others as if each token ended an answer as likely."""
    if not 1 <= mean <= most:
        message = f"a mean answer of {mean:g} tokens, of which 1 to {most} are allowed"
        raise UsageError("FP199", message, fix="lower the mean, or raise the most")
    if mean == most:
        return (most,)
    low, high = 0.0, 1e4 * most
    for _ in range(60):  # of the mean without the bound, which is above
        middle = (low + high) / 2
        low, high = (middle, high) if _bounded_mean(middle, most) < mean else (low, middle)
    parts = (-log(1 - (part + 0.5) / MOST_EXPECTED) for part in range(MOST_EXPECTED))
    return tuple(min(most, max(1, ceil(high * part))) for part in parts)


def _bounded_mean(mean: float, most: int) -> float:
    """Of lengths of at least 1, about exponential with this mean, none above ``most``."""
    return 0.5 + mean * (1 - exp(-most / mean)) if mean > 0 else 0.5


def _refuse(what: str, fix: str) -> NoReturn:
    raise PromptError("FP336", what, fix=fix)
