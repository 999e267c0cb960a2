"""Names of requests: an id, or the place of a line that has none; no two may be alike."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from flexplan.errors import PromptError
from flexplan.problem.prompts.index import Name, Prompts
from flexplan.problem.prompts.lines import Line


class _Called(NamedTuple):
    """A line that may have the name of another: ``own`` is an id, not its place."""

    place: int
    line: int
    own: bool


def clashes(names: array[int], found: Prompts) -> dict[int, int]:
    """Of lines without an id that are called as another line is: the later one's place, with the earlier one's.

    So prompts that are added change none of before.  Raises PromptError where two lines have one id.
    """
    hashes = np.frombuffer(names, dtype=np.int64) if names else np.empty(0, np.int64)
    values, counts = np.unique(hashes, return_counts=True)
    if len(values) == len(hashes):
        return {}
    called: dict[str, list[_Called]] = {}
    for place in np.flatnonzero(np.isin(hashes, values[counts > 1])).tolist():
        line = found.at_place(place)
        own, name = (found.bad.named(line, otherwise)[0] for otherwise in (None, place))
        if name is not None:
            called.setdefault(str(name), []).append(_Called(place, line.number, own is not None))
    _refuse_twins({name: [one.line for one in alike if one.own] for name, alike in called.items()})
    pairs = [alike for alike in called.values() if len(alike) > 1]
    return {later.place: earlier.place for earlier, later in pairs}


def _refuse_twins(lines: Mapping[str, Sequence[int]]) -> None:
    """Raise PromptError where several lines say one id."""
    twins = {name: where for name, where in lines.items() if len(where) > 1}
    if twins:
        each = (f"{name:.60} (lines {', '.join(map(str, where[:5]))})" for name, where in islice(twins.items(), 10))
        message = f"{len(twins)} ids stand there more than once: {', '.join(each)}; allowed is once"
        raise PromptError("FP313", message, fix='give every line an id of its own, or none; 5 and "5" are one id')


def clash(name: Name, line: Line, place: int, earlier: Line) -> PromptError:
    """Why a line that is called as an earlier one cannot be run."""
    own, _ = name(line, None)
    by_place = "has no id, and is called by its place, counted from 0"
    if own is None:
        message = f"line {line.number} {by_place}: {place}, which is the id of line {earlier.number}"
    else:
        message = f"line {line.number}: line {earlier.number} {by_place}: {own!r:.60}, which is the id here"
    return PromptError("FP337", message, fix="give every line an id of its own, or none")
