"""Mutations: a graph with one thing changed, as a faulty schedule would write it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf, nan
from typing import Any

from flexplan.graph import Access, Buffer, Finished, Sweep, Task, TaskGraph
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.schedule import Schedule

Sweeps = list[tuple[int, tuple[int, ...], list[Task]]]
Mutation = Callable[[random.Random, Sweeps], str]  # changes sweeps in place; says what it did


class Mutated:
    """A schedule whose graphs have one thing changed, the same one each time."""

    def __init__(self, schedule: Schedule, seed: int) -> None:
        self.schedule = schedule
        self.seed = seed
        self.what = "nothing"

    def build(self, problem: Problem, policy: Policy) -> TaskGraph:
        rng = random.Random(self.seed)
        graph = self.schedule.build(problem, policy)
        if rng.random() < 0.12:
            mutated, self.what = _other_graph(rng, graph)
            return mutated
        sweeps: Sweeps = [(sweep.i, sweep.ks, list(sweep.tasks)) for sweep in graph.sweeps()]
        self.what = rng.choice(_MUTATIONS)(rng, sweeps)

        def make(finished: Finished) -> Iterator[Sweep]:
            for i, ks, tasks in sweeps:
                if not ks or not all(map(finished, ks)):
                    yield Sweep(i, ks, tasks)

        return replace(graph, make=make)


# -- of a graph ----------------------------------------------------------------------------------------------------
def _other_graph(rng: random.Random, graph: TaskGraph) -> tuple[TaskGraph, str]:
    """Another number of live micro-batches, or a buffer that lies elsewhere."""
    if rng.random() < 0.3:
        live = rng.choice([graph.live - 1, graph.live + 1, 0, -1, 1, 10**9, 1.5, None])
        return replace(graph, live=live), f"live {graph.live} -> {live}"
    name = rng.choice(sorted(graph.buffers))
    b, step = graph.buffers[name], rng.choice([-4096, -64, 64, 4096, 1 << 40])
    changed: dict[str, Buffer | None] = {
        "gone": None,
        "moved": replace(b, offsets=tuple(o + step for o in b.offsets)),
        "a slot moved": replace(b, offsets=(b.offsets[0] + step, *b.offsets[1:])),
        "resized": replace(b, sizes=tuple(s + step for s in b.sizes)),
        "a slot shorter": replace(b, offsets=b.offsets[:-1], sizes=b.sizes[:-1]),
        "a slot longer": replace(b, offsets=(*b.offsets, b.offsets[-1]), sizes=(*b.sizes, b.sizes[-1])),
        "elsewhere": replace(b, arena=rng.choice(["gpu.work", "host.work", "disk.work", "nowhere.at_all"])),
        "renamed": replace(b, name="other"),
    }
    what = rng.choice(sorted(changed))
    buffers = {other: buffer for other, buffer in graph.buffers.items() if other != name}
    if changed[what] is not None:
        buffers[name] = changed[what]  # type: ignore[assignment]
    return replace(graph, buffers=buffers), f"{name} {what} by {step}"


# -- of its sweeps and tasks -----------------------------------------------------------------------------------------
def _drop(rng: random.Random, sweeps: Sweeps) -> str:
    tasks = _tasks(rng, sweeps)
    return f"dropped {tasks.pop(rng.randrange(len(tasks)))}"


def _double(rng: random.Random, sweeps: Sweeps) -> str:
    tasks = _tasks(rng, sweeps)
    task = rng.choice(tasks)
    tasks.insert(rng.randrange(len(tasks) + 1), task)
    return f"doubled {task}"


def _move(rng: random.Random, sweeps: Sweeps) -> str:
    tasks = _tasks(rng, sweeps)
    at = rng.randrange(len(tasks))
    task = tasks.pop(at)
    to = max(0, at + rng.choice([-9, -3, -2, -1, 1, 2, 3, 9]))
    tasks.insert(to, task)
    return f"moved from {at} to {to}: {task}"


def _swap(rng: random.Random, sweeps: Sweeps) -> str:
    tasks = _tasks(rng, sweeps)
    one = rng.randrange(len(tasks))
    other = rng.choice([rng.randrange(len(tasks)), min(one + 1, len(tasks) - 1)])
    tasks[one], tasks[other] = tasks[other], tasks[one]
    return f"swapped {tasks[one].name} and {tasks[other].name}"


def _to_another_sweep(rng: random.Random, sweeps: Sweeps) -> str:
    tasks = _tasks(rng, sweeps)
    task = tasks.pop(rng.randrange(len(tasks)))
    _tasks(rng, sweeps).insert(0, task)
    return f"to another sweep: {task}"


def _head(rng: random.Random, sweeps: Sweeps) -> str:
    tasks = _tasks(rng, sweeps)
    at = rng.randrange(len(tasks))
    name = rng.choice(["kind", "lane", "i", "j", "k", "part"])
    if name in ("kind", "lane"):
        value: Any = rng.choice([getattr(rng.choice(tasks), name), "frobnicate", "", None])
    else:
        value = rng.choice([getattr(tasks[at], name) + rng.choice([-1, 1, 1 << 40]), 0, 1.0, nan])
    was, tasks[at] = tasks[at], tasks[at]._replace(**{name: value})
    return f"{name} {value} of {was}"


def _work(rng: random.Random, sweeps: Sweeps) -> str:
    tasks = _tasks(rng, sweeps)
    at, value = rng.randrange(len(tasks)), rng.choice([nan, inf, -1.0, 0.0, 7, "much"])
    tasks[at] = tasks[at]._replace(work=tasks[at].work._replace(gpu_flops=value))
    return f"work {value} of {tasks[at].name}"


def _access(rng: random.Random, sweeps: Sweeps) -> str:
    """An index, a bound or a buffer of one access; an access left out, doubled, or in another place."""
    tasks = _tasks(rng, sweeps)
    at = rng.choice([n for n, task in enumerate(tasks) if task.reads or task.writes])
    which = rng.choice([name for name in ("reads", "writes") if getattr(tasks[at], name)])
    accesses: list[Access] = list(getattr(tasks[at], which))
    n = rng.randrange(len(accesses))
    a = accesses[n]
    what = rng.choice(["index", "index", "lo", "hi", "buffer", "left out", "doubled", "reversed", "floats"])
    if what == "index":
        accesses[n] = a._replace(index=a.index + rng.choice([-2, -1, 1, 2, 3, 1 << 40]))
    elif what in ("lo", "hi"):
        accesses[n] = a._replace(**{what: getattr(a, what) + rng.choice([-4096, -64, -8, -1, 1, 8, 64, 4096])})
    elif what == "buffer":
        others = [x.buffer for task in tasks for x in (*task.reads, *task.writes)]
        accesses[n] = a._replace(buffer=rng.choice([*others, "nowhere"]))
    elif what == "left out":
        del accesses[n]
    elif what == "doubled":
        accesses.insert(n, a)
    elif what == "reversed":
        accesses.reverse()
    else:
        accesses[n] = a._replace(index=float(a.index))  # type: ignore[arg-type]
    was, tasks[at] = tasks[at], tasks[at]._replace(**{which: tuple(accesses)})
    return f"{what} of {a} in {was}"


def _sweep(rng: random.Random, sweeps: Sweeps) -> str:
    at = rng.randrange(len(sweeps))
    i, ks, tasks = sweeps[at]
    what = rng.choice(["dropped", "doubled", "swapped", "token", "micro-batches", "empty"])
    if what == "dropped":
        del sweeps[at]
    elif what == "doubled":
        sweeps.insert(at, sweeps[at])
    elif what == "swapped":
        other = rng.randrange(len(sweeps))
        sweeps[at], sweeps[other] = sweeps[other], sweeps[at]
    elif what == "token":
        sweeps[at] = (i + rng.choice([-1, 1]), ks, tasks)
    elif what == "micro-batches":
        sweeps[at] = (i, rng.choice([ks[1:], (*ks, ks[0]), (*ks, 99), ks[::-1]]), tasks)
    else:
        sweeps[at] = (i, ks, [])
    return f"sweep {at} (i={i}) {what}"


_MUTATIONS: list[Mutation] = [
    *(_drop, _double, _move, _swap) * 2,
    *(_to_another_sweep, _head, _work, _sweep),
    *(_access,) * 3,
]


def _tasks(rng: random.Random, sweeps: Sweeps) -> list[Task]:
    return rng.choice([tasks for _, _, tasks in sweeps if tasks])
