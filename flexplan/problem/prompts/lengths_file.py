"""Lengths of requests from a table: prompt and new tokens of each, without their text."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple, NoReturn, TextIO

from flexplan.errors import PromptError
from flexplan.limits import MOST_NEW_TOKENS, MOST_TOKENS, regular

COLUMNS = ("prompt_tokens", "new_tokens")
MOST = "max_tokens"  # a column that may be there, too


class Lengths(NamedTuple):
    """Of each request, tokens of its prompt and its most new ones; ``ends`` are where answers end before, if known."""

    prompt_lens: tuple[int, ...]
    gen_lens: tuple[int, ...]
    ends: tuple[int, ...] = ()


def read_lengths(source: str | Path, most: int | None = None) -> Lengths:
    """Those of a CSV file with these columns, of the first ``most`` requests; PromptError names the line that is wrong.

    With a column ``max_tokens`` answers may have so many, and end after those of ``new_tokens``.  Other columns are not
    looked at.
    """
    try:
        with open(str(source), newline="", encoding="utf-8", opener=regular) as file:
            found = list(islice(_rows(file, source), most))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        _refuse(f"lengths {source} cannot be read: {error}", "give a CSV file")
    if not found:
        _refuse(f"{source} has no requests", f"write a line for each under {','.join(COLUMNS)}")
    prompts, new, allowed = (tuple(row[n] for row in found) for n in range(3))
    return Lengths(prompts, new) if allowed == new else Lengths(prompts, allowed, new)


def _rows(file: TextIO, source: str | Path) -> Iterator[tuple[int, int, int]]:
    table = csv.DictReader(file)
    for name in COLUMNS:
        if name not in (table.fieldnames or ()):
            _refuse(f"{source} has no column {name}", f"let its first line be {','.join(COLUMNS)}")
    for row in table:
        prompt = _number(row["prompt_tokens"], MOST_TOKENS, "prompt_tokens", table.line_num)
        new = _number(row["new_tokens"], MOST_NEW_TOKENS, "new_tokens", table.line_num)
        most = _number(row[MOST], MOST_NEW_TOKENS, MOST, table.line_num) if MOST in row else new
        if new > most:
            _refuse(f"line {table.line_num}: {new} new_tokens of {MOST} {most}", f"correct line {table.line_num}")
        yield prompt, new, most


def _number(text: str | None, most: int, name: str, line: int) -> int:
    value = int(text) if text is not None and text.strip().isdecimal() and len(text) < 20 else 0
    if not 1 <= value <= most:
        _refuse(f"line {line}: {name} {text!r:.40} is not a number of tokens from 1 to {most}", f"correct line {line}")
    return value


def _refuse(what: str, fix: str) -> NoReturn:
    raise PromptError("FP334", what, fix=fix)
