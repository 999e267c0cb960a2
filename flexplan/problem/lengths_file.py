"""Lengths of requests from a table: prompt and new tokens of each, without their text."""

from __future__ import annotations

import csv
from pathlib import Path

from flexplan.errors import PromptError
from flexplan.limits import regular

COLUMNS = ("prompt_tokens", "new_tokens")


def read_lengths(source: str | Path, most: int | None = None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(prompt lengths, most new tokens) of a CSV file with these columns, of the first ``most`` requests.

    Raises PromptError with the line that is wrong.
    """
    try:
        with open(str(source), newline="", encoding="utf-8", opener=regular) as file:
            rows = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                _refuse(f"{source} has no column {missing[0]}", f"its first line must be {','.join(COLUMNS)}")
            found = [_lengths(row, rows.line_num) for row, _ in zip(rows, _count(most), strict=False)]
    except (OSError, ValueError, csv.Error) as error:
        _refuse(f"lengths {source} cannot be read: {error}", "give a CSV file")
    if not found:
        _refuse(f"{source} has no requests", f"write a line for each under {','.join(COLUMNS)}")
    prompts, new = zip(*found, strict=True)
    return tuple(prompts), tuple(new)
