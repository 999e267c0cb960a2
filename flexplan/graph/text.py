"""The text form of a task graph: one line a buffer, a sweep and a task; what is written reads back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from flexplan.errors import GraphError
from flexplan.graph.tasks import Access, Buffer, Sweep, Task, Work


class GraphText(NamedTuple):
    """What a graph's text says."""

    schedule: str
    live: int
    buffers: dict[str, Buffer]
    sweeps: list[Sweep]


def graph_lines(schedule: str, live: int, buffers: Mapping[str, Buffer], sweeps: Iterable[Sweep]) -> Iterator[str]:
    """The lines of a graph."""
    yield f"schedule {schedule} live={live}"
    for b in buffers.values():
        slots = " ".join(f"{o}+{s}" for o, s in zip(b.offsets, b.sizes, strict=True))
        yield f"buffer {b.name} {b.arena} {slots}"
    for sweep in sweeps:
        yield f"sweep i={sweep.i} ks={','.join(map(str, sweep.ks))}"
        yield from map(str, sweep.tasks)


def parse_graph(text: str) -> GraphText:
    """What ``graph_lines`` wrote; a line that does not parse raises GraphError with its number."""
    found = GraphText("", 1, {}, [])
    tasks: list[Task] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            word, _, rest = line.partition(" ")
            if word == "schedule":
                schedule, _, live = rest.partition(" live=")
                found = found._replace(schedule=schedule, live=int(live))
            elif word == "buffer":
                buffer = _parse_buffer(rest)
                found.buffers[buffer.name] = buffer
            elif word == "sweep":
                tasks = []
                i, ks = rest.split(" ")
                found.sweeps.append(Sweep(int(i.removeprefix("i=")), tuple(map(int, ks[3:].split(","))), tasks))
            elif not found.sweeps:
                raise ValueError("a task stands before the first sweep")
            else:
                tasks.append(parse_task(line))
        except (ValueError, KeyError, TypeError, GraphError) as error:
            why = error.message if isinstance(error, GraphError) else error
            raise GraphError("FP802", f"line {number} does not parse: {line!r} ({why})", fix="correct it") from None
    return found


_NAME = re.compile(r"^(\w+)@(\w+)\[i=(\d+) j=(\d+) k=(\d+)(?: p=(\d+))?\]$")
_ACCESS = re.compile(r"^(\w+)\[(\d+)\]:(\d+)-(\d+)$")


def parse_name(text: str) -> tuple[str, str, int, int, int, int]:
    """(kind, lane, i, j, k, part) of a task's name.

    >>> parse_name("load_weight@h2d_weights[i=0 j=4 k=1]")
    ('load_weight', 'h2d_weights', 0, 4, 1, 0)
    """
    found = _NAME.match(text)
    if found is None:
        raise GraphError("FP802", f"{text!r} is not a task's name", fix="write kind@lane[i=0 j=4 k=1]")
    kind, lane, *indices = found.groups()
    i, j, k, part = (int(n or 0) for n in indices)
    return kind, lane, i, j, k, part


def parse_task(line: str) -> Task:
    """The task that a line of text describes; ``str(task)`` writes it."""
    head, _, rest = line.partition("] ")
    fields = dict(part.split("=", 1) for part in rest.split(" "))
    kind, lane, i, j, k, part = parse_name(head + "]")
    reads, writes = _parse_accesses(fields["reads"]), _parse_accesses(fields["writes"])
    return Task(kind, lane, i, j, k, part, _parse_work(fields["work"]), reads, writes)


def _parse_work(text: str) -> Work:
    if text == "none":
        return Work()
    pairs = (part.split(":") for part in text.split(","))
    return Work(**{name: float(value) if set(value) & set(".en") else int(value) for name, value in pairs})


def _parse_accesses(text: str) -> tuple[Access, ...]:
    return () if text == "-" else tuple(map(_parse_access, text.split(";")))


def _parse_access(text: str) -> Access:
    found = _ACCESS.match(text)
    if found is None:
        raise ValueError(f"{text!r} is not buffer[index]:lo-hi")
    buffer, index, lo, hi = found.groups()
    return Access(buffer, int(index), int(lo), int(hi))


def _parse_buffer(text: str) -> Buffer:
    name, arena, *slots = text.split(" ")
    pairs = [tuple(map(int, slot.split("+"))) for slot in slots if slot]
    return Buffer(name, arena, tuple(o for o, _ in pairs), tuple(s for _, s in pairs))
