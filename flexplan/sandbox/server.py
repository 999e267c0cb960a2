"""The process of a schedule from within: builds graphs, and hands out their passes and tasks when it is asked.

A request is a pickle of our own: (its number, numbers of what is no longer needed, verb, ...).  An answer is a line of
JSON, with the number of its request: nothing of the stranger's objects leaves this process.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from itertools import islice
from typing import Any

from flexplan.errors import FlexplanError
from flexplan.graph import Sweep, TaskGraph
from flexplan.graph.graph import never
from flexplan.plugins import SCHEDULES, make
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan.sandbox.bounds import unmade
from flexplan.sandbox.supervisor import main, read_request, write_answer
from flexplan.sandbox.wire import TASKS, Plain, head_of, packed_tasks
from flexplan.schedule import Schedule


class _Passes:
    """The passes of a graph, asked for one after the other; which micro-batches have finished is said each time."""

    def __init__(self, graph: TaskGraph, endless: bool) -> None:
        self.finished: frozenset[int] = frozenset()
        self.source: Iterator[Sweep] = iter(graph.sweeps(never if endless else lambda k: k in self.finished))
        self.patterns: dict[Any, int] = {}

    def number_of(self, pattern: Any) -> int | None:
        return None if pattern is None else self.patterns.setdefault(pattern, len(self.patterns))


class Server:
    """Graphs, their passes, and tasks under way, each by a number that its starter chose or was told."""

    def __init__(self) -> None:
        self.schedule: Schedule | None = None
        self.held: dict[int, Any] = {}
        self.sweeps = 0

    def load(self, name: str) -> Plain:
        """Import and make the schedule."""
        self.schedule = make(SCHEDULES, name)
        return {}

    def build(self, number: int, problem: Problem, policy: Policy) -> Plain:
        """A graph's head; ``number`` stands for the graph from then on."""
        assert self.schedule is not None
        graph = self.schedule.build(problem, policy)
        if not isinstance(graph, TaskGraph):
            return {"returned": type(graph).__name__}
        self.held[number] = graph
        return head_of(graph)

    def open(self, number: int, graph: int, endless: bool) -> Plain:
        """Begin to walk a graph; without ``endless`` it is told what has finished."""
        self.held[number] = _Passes(self.held[graph], endless)
        return {}

    def next(self, passes: int, finished: frozenset[int], most: int) -> Plain:
        """The next passes, without their tasks; fewer than asked where there are no more."""
        walked = self.held[passes]
        walked.finished = finished
        found = []
        for sweep in islice(walked.source, most):
            self.sweeps -= 1  # its starter counts up
            self.held[self.sweeps] = iter(unmade(sweep))
            found.append([self.sweeps, sweep.i, list(sweep.ks), walked.number_of(sweep.pattern)])
        return {"sweeps": found}

    def tasks(self, sweep: int) -> Plain:
        """The next tasks of a pass; fewer than `TASKS` where there are no more."""
        return packed_tasks(islice(self.held[sweep], TASKS))

    def answer(self, request: tuple[Any, ...]) -> Plain:
        """What a request asks, or why not."""
        number, dropped, verb, *given = request
        for held in dropped:
            self.held.pop(held, None)
        try:
            found: Plain = getattr(self, verb)(*given)
            return {"answers": number, **found}
        except FlexplanError as error:
            return {"answers": number, "code": error.code, "message": error.message, "fix": error.fix}
        except BaseException as error:
            return {"answers": number, "failure": f"{error!r:.500}"}


def line_of(answer: Plain) -> bytes:
    """An answer as a line; where it holds what is no plain data, that is the answer."""
    try:
        return json.dumps(answer).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        why = f"its graph is not plain data: {error!r:.200}"
        return json.dumps({"answers": answer["answers"], "failure": why}).encode() + b"\n"


def _serve(requests: int, answers: int) -> None:
    server, me = Server(), os.getpid()
    while (request := read_request(requests)) is not None:
        answer = line_of(server.answer(pickle.loads(request)))
        if os.getpid() != me:
            return  # a copy of this process, which came back a second time
        write_answer(answers, answer)


if __name__ == "__main__":
    main(_serve)
