"""Passes and tasks as plain data: what a schedule's process answers is read as strictly as a file.

Numbers of tasks name accesses and works that are listed once: most of a pass shares them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from flexplan.graph import Access, Buffer, Task, TaskGraph, Work

TASKS = 2048  # of an answer

Plain = dict[str, Any]


# -- where the schedule is -----------------------------------------------------------------------------------------
def head_of(graph: TaskGraph) -> Plain:
    """All of a graph but its passes."""
    buffers = [[key, b.name, b.arena, list(b.offsets), list(b.sizes)] for key, b in graph.buffers.items()]
    return {"schedule": graph.schedule, "live": graph.live, "buffers": buffers}


def packed_tasks(tasks: Iterable[Task]) -> Plain:
    """Some tasks."""
    works: dict[Work, int] = {}
    accesses: dict[Access, int] = {}
    lines = [
        [
            *task[:6],
            works.setdefault(task.work, len(works)),
            [accesses.setdefault(access, len(accesses)) for access in task.reads],
            [accesses.setdefault(access, len(accesses)) for access in task.writes],
        ]
        for task in tasks
    ]
    return {"works": list(works), "accesses": list(accesses), "tasks": lines}


# -- where it is asked ---------------------------------------------------------------------------------------------
def read_head(given: Plain) -> tuple[str, int, dict[str, Buffer]]:
    """(schedule, live, buffers); ValueError for what is not of its type."""
    buffers = {
        _text(key): Buffer(_text(name), _text(arena), _whole(offsets), _whole(sizes))
        for key, name, arena, offsets, sizes in given["buffers"]
    }
    (live,) = _whole([given["live"]])
    return _text(given["schedule"]), live, buffers


def read_sweeps(given: Plain) -> list[tuple[int, int, tuple[int, ...], int | None]]:
    """(number, token, micro-batches, pattern) of each pass."""
    found = []
    for number, i, ks, pattern in given["sweeps"]:
        _whole([number, i, *([] if pattern is None else [pattern])])
        found.append((number, i, _whole(ks), pattern))
    return found


def read_tasks(given: Plain) -> list[Task]:
    """The tasks that ``packed_tasks`` packed."""
    works = [_work(numbers) for numbers in given["works"]]
    accesses = [Access(_text(name), *_whole([index, lo, hi])) for name, index, lo, hi in given["accesses"]]
    found = []
    for kind, lane, i, j, k, part, work, reads, writes in given["tasks"]:
        _whole((i, j, k, part, work))
        if work < 0:
            raise ValueError("a task names no work")
        touched = _named(reads, accesses), _named(writes, accesses)
        found.append(Task(_text(kind), _text(lane), i, j, k, part, works[work], *touched))
    return found


def _named(numbers: Sequence[int], accesses: Sequence[Access]) -> tuple[Access, ...]:
    return tuple([accesses[number] for number in numbers])


def _work(numbers: Sequence[float]) -> Work:
    if len(numbers) != len(Work._fields) or any(type(number) not in (int, float) for number in numbers):
        raise ValueError("a work is not its numbers")
    return Work(*numbers)


def _whole(numbers: Sequence[Any]) -> tuple[int, ...]:
    for number in numbers:
        if type(number) is not int:
            raise ValueError(f"{number!r:.80} is no whole number")
    return tuple(numbers)


def _text(given: Any) -> str:
    if not isinstance(given, str):
        raise ValueError(f"{given!r:.80} is no name")
    return given
