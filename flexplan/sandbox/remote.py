"""A schedule in a process of its own, as it is asked from here: a graph whose passes and tasks come when wanted."""

from __future__ import annotations

import json
import pickle
import re
import threading
from collections.abc import Iterator
from itertools import count
from typing import Any

from flexplan.errors import PluginError
from flexplan.graph import Finished, Sweep, Task, TaskGraph
from flexplan.graph.graph import never
from flexplan.placement import Layout, Placement
from flexplan.policy import Policy, fill_blocks
from flexplan.problem import Problem
from flexplan.sandbox.allowance import REPORT, Allowance, allowance
from flexplan.sandbox.bounds import Bounds, failed
from flexplan.sandbox.process import Process
from flexplan.sandbox.thirdparty import ThirdParty
from flexplan.sandbox.wire import TASKS, Plain, read_head, read_sweeps, read_tasks

_MOST_BYTES = 64 << 20  # of an answer
_PASSES = 64  # of an answer, where none ends early
_CODE = re.compile(r"FP\d{3,4}")


class Sandboxed(ThirdParty):
    """A schedule in a process of its own, which is started at the first graph and kept for the next.

    Graphs are there only as long as the process: after an error they say so.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._numbers = count(1)
        self._dropped: list[int] = []
        self._lock = threading.RLock()
        self._process: Process | None = None

    def build(self, problem: Problem, policy: Policy) -> TaskGraph:
        """The graph that the schedule builds there."""
        bounds, allowed = Bounds.of(self.name, problem, policy), allowance()
        try:
            graph = _Graph(self, allowed, bounds, problem, policy)
        except _Refusal:
            Layout.of(Placement.of(problem.model, policy, next(fill_blocks(problem.workload, policy))))
            raise  # nothing is wrong with the policy
        return bounds.applied(TaskGraph(graph.schedule, graph.live, graph.buffers, graph.sweeps))

    def number(self) -> int:
        """A new one."""
        return next(self._numbers)

    def drop(self, number: int) -> None:
        """Say with the next request that this is no longer needed."""
        self._dropped.append(number)

    def ask(self, process: Process | None, allowed: Allowance, *request: Any) -> tuple[Process, Plain]:
        """The answer of ``process``, or of the one there is, and which it was."""
        with self._fresh_lock(), allowed.spent():
            asked = process or self._running(allowed)
            if not asked.is_ours:
                raise failed(self.name, "its process has ended, and what it built with it")
            dropped, self._dropped = self._dropped, []
            return asked, self._converse(asked, allowed, dropped, *request)

    def _fresh_lock(self) -> threading.RLock:
        """In a forked copy of this process another thread may hold the lock for ever."""
        if self._process is not None and not self._process.is_ours:
            self._process, self._lock, self._dropped = None, threading.RLock(), []
        return self._lock

    def _running(self, allowed: Allowance) -> Process:
        if self._process is None:
            process = Process("flexplan.sandbox.server")
            try:
                self._converse(process, allowed, [], "load", self.name)
                self._process = process
            finally:
                if self._process is None:
                    process.end()
            return process
        return self._process

    def _converse(self, process: Process, allowed: Allowance, *request: Any) -> Plain:
        """One request and its answer; after anything but a whole answer the process is ended."""
        number, whole = self.number(), False
        sent = pickle.dumps((number, *request))
        try:
            line = process.ask(sent, allowed.left_s, _MOST_BYTES, lambda found: found.endswith(b"\n"))
            if line is None:
                raise self._too_slow(allowed)
            answer = self._read(line, process, number)
            whole = True
        finally:
            if not whole:
                process.end()
                self._process = None
        return self._believed(answer)

    def _read(self, line: bytearray, process: Process, number: int) -> Plain:
        if len(line) > _MOST_BYTES:
            raise failed(self.name, f"its answer is {len(line)} bytes and goes on, allowed {_MOST_BYTES}")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if isinstance(answer, dict) and answer.get("answers") == number:
            return answer
        if process.exit_code is None:
            raise failed(self.name, f"its process answered {bytes(line[:80])!r}")
        raise failed(self.name, f"its process ended with exit code {process.exit_code} and no answer")

    def _believed(self, answer: Plain) -> Plain:
        """The answer, where it is none of failure."""
        if "failure" in answer:
            raise failed(self.name, str(answer["failure"]))
        if "returned" in answer:
            raise PluginError(
                "FP909", f"schedule {self.name} returned {answer['returned']}, must be a TaskGraph", fix=REPORT
            )
        if "code" in answer:
            code, message, fix = (str(answer.get(key)) for key in ("code", "message", "fix"))
            code = code if _CODE.fullmatch(code) else "FP907"
            raise _Refusal(code, f"schedule {self.name}: {message:.2000}", fix=f"{fix:.500}")
        return answer

    def _too_slow(self, allowed: Allowance) -> PluginError:
        return PluginError(
            "FP908",
            f"schedule {self.name} gave no answer within {allowed.seconds:g} s",
            fix="allow it more with --planner-timeout (timeout_s), or take another schedule",
        )


class _Refusal(PluginError):
    """What a schedule raised of ours: where the policy is to blame, the same is raised here as well."""


class _Graph:
    """A graph in the process of its schedule."""

    def __init__(self, there: Sandboxed, allowed: Allowance, bounds: Bounds, problem: Problem, policy: Policy) -> None:
        self.there, self.allowed, self.bounds = there, allowed, bounds
        self.number = there.number()
        self.process, head = there.ask(None, allowed, "build", self.number, problem, policy)
        self.schedule, self.live, self.buffers = self.read(read_head, head)

    def __del__(self) -> None:
        self.there.drop(self.number)

    def ask(self, *request: Any) -> Plain:
        """Of the process that has the graph."""
        return self.there.ask(self.process, self.allowed, *request)[1]

    def read(self, reader: Any, answer: Plain) -> Any:
        """The answer as a reader reads it; what it does not take is no graph."""
        try:
            return reader(answer)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise self.bounds.refused(f"{error!r:.200}") from error

    def sweeps(self, finished: Finished) -> Iterator[Sweep]:
        """The passes, each asked for when it is wanted: which micro-batches have finished may change until then."""
        number, endless = self.there.number(), finished is never
        most = _PASSES if endless else 1
        self.ask("open", number, self.number, endless)
        try:
            while True:
                ended = frozenset() if endless else frozenset(filter(finished, range(self.bounds.batches)))
                found = self.read(read_sweeps, self.ask("next", number, ended, most))
                for sweep, i, ks, pattern in found:
                    yield Sweep(i, ks, _Tasks(self, sweep), pattern)
                if len(found) < most:
                    return
        finally:
            self.there.drop(number)


class _Tasks:
    """The tasks of a pass, some thousand at a time."""

    def __init__(self, graph: _Graph, sweep: int) -> None:
        self.graph = graph
        self.sweep = sweep

    def __del__(self) -> None:
        self.graph.there.drop(self.sweep)

    def __iter__(self) -> Iterator[Task]:
        while True:
            found = self.graph.read(read_tasks, self.graph.ask("tasks", self.sweep))
            self.graph.allowed.earn(len(found))
            yield from found
            if len(found) < TASKS:
                return
