"""Expected lengths: how long answers are likely to be, which nobody knows but for the most that is allowed.

They are kept as lengths in order that stand for equal parts of all answers; where it is known to which prompts answers
were given, for equal parts of those to prompts of like lengths.  A mean alone is taken for answers that end at each
token as likely as at any other, which lengths of real services are not far from.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from math import ceil, exp, isqrt, log
from pathlib import Path
from typing import NamedTuple, NoReturn, TextIO

from flexplan.errors import PromptError, UsageError
from flexplan.limits import MOST_NEW_TOKENS, MOST_TOKENS, regular

Seen = Mapping[tuple[int, int], int]  # how often (tokens of a prompt, of its answer) were seen; 0 is any prompt

MOST_EXPECTED = 1024  # lengths that stand for all
_MOST_SEEN = 1 << 40  # of one length, in a histogram
_COLUMNS = "prompt_tokens", "new_tokens", "count"


class Expectation(NamedTuple):
    """Lengths of answers that stand for equal parts of all, ascending.

    With ``prompts``, which are ascending, each stands for answers to prompts of up to so many tokens.
    """

    lens: tuple[int, ...] = ()
    prompts: tuple[int, ...] = ()


Expected = Expectation | float | Sequence[int] | Sequence[tuple[int, int]] | Mapping[int, int] | str | Path


def expectation_of(expected: Expected, most: int) -> Expectation:
    """What stands for all that is expected of answers of up to ``most`` tokens, at most `MOST_EXPECTED` lengths.

    ``expected`` is a mean, lengths that were seen, alone or each behind that of its prompt, a histogram
    {length: how many}, or a file as `read_gen_lens` takes it; nothing of an empty list.

    >>> expectation_of([7, 3, 5], 100).lens, expectation_of({10: 2, 30: 1}, 100).lens
    ((3, 5, 7), (10, 10, 30))
    """
    if isinstance(expected, Expectation):
        return expected
    if isinstance(expected, int | float):
        return Expectation(_of_mean(float(expected), most))
    return _of_seen(read_gen_lens(expected) if isinstance(expected, str | Path) else _counted(expected))


def _counted(expected: Sequence[int] | Sequence[tuple[int, int]] | Mapping[int, int]) -> Seen:
    if isinstance(expected, Mapping):
        return {(0, length): count for length, count in expected.items()}
    seen = dict[tuple[int, int], int]()
    for one in expected:
        pair = (0, one) if isinstance(one, int) else one
        seen[pair] = seen.get(pair, 0) + 1
    return seen


def read_gen_lens(source: str | Path) -> dict[tuple[int, int], int]:
    """How often an answer of each length was seen to a prompt of each, which is 0 where that is not said.

    The file has a number a line, or CSV with new_tokens, maybe prompt_tokens and count; PromptError names the line that
    is wrong.
    """
    try:
        with open(str(source), newline="", encoding="utf-8", opener=regular) as file:
            found = dict[tuple[int, int], int]()
            for pair, count in _rows(file):
                found[pair] = found.get(pair, 0) + count
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        _refuse(f"lengths of answers {source} cannot be read: {error}", "give a list of numbers, or a CSV file")
    if not found:
        _refuse(f"{source} has no lengths of answers", "write one in each line")
    return found


def _rows(file: TextIO) -> Iterator[tuple[tuple[int, int], int]]:
    """Lengths and how many of them, line by line; the first line may name columns."""
    places: list[int | None] = [None, 0, None]
    for n, row in enumerate(csv.reader(file)):
        if n == 0 and _COLUMNS[1] in row:
            places = [row.index(name) if name in row else None for name in _COLUMNS]
        elif row:
            prompt, length, count = (None if at is None else row[at] if at < len(row) else "" for at in places)
            pair = 0 if prompt is None else _number(prompt, MOST_TOKENS, n + 1), _number(length, MOST_NEW_TOKENS, n + 1)
            yield pair, 1 if count is None else _number(count, _MOST_SEEN, n + 1)


def _number(text: str | None, most: int, line: int) -> int:
    value = int(text) if text is not None and text.strip().isdecimal() and len(text) < 20 else 0
    if not 1 <= value <= most:
        what = f"line {line}: {text!r:.40} is not a number from 1 to {most}"
        _refuse(what, f"correct line {line}: a length, or columns {','.join(_COLUMNS)}")
    return value


def _of_seen(seen: Seen) -> Expectation:
    """As many parts by the prompts as by the answers to those of a part; one where prompts are not known."""
    total = sum(seen.values())
    if not any(prompt for prompt, _ in seen):
        return Expectation(_parts({length: count for (_, length), count in seen.items()}, min(total, MOST_EXPECTED)))
    groups = max(1, isqrt(min(total, MOST_EXPECTED)))
    lens, prompts, group, taken, made = list[int](), list[int](), dict[int, int](), 0, 0
    ordered = sorted(seen.items())
    for n, ((prompt, length), count) in enumerate(ordered):
        group[length] = group.get(length, 0) + count
        taken += count
        last = n + 1 == len(ordered)
        if last or (ordered[n + 1][0][0] > prompt and taken * groups >= (made + 1) * total):
            lens += _parts(group, min(sum(group.values()), MOST_EXPECTED // groups))
            prompts += [prompt] * (len(lens) - len(prompts))
            group, made = {}, made + 1
    return Expectation(tuple(lens), tuple(prompts))


def _parts(seen: Mapping[int, int], count: int) -> tuple[int, ...]:
    """All of few, or the middles of ``count`` equal parts; the longest always, where there are some."""
    if not seen:
        return ()
    lens, total = sorted(seen), sum(seen.values())
    ends, at, found = list(accumulate(seen[length] for length in lens)), 0, list[int]()
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
