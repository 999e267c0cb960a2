"""The executor: puts the tasks of a graph into lanes.  It has no loop over layers; the order is the graph's."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from flexplan.graph import GPU, INLINE, Finished, Node, Span, Sweep, Task, TaskGraph, Timeline, Tracker
from flexplan_runtime.execute.block import BlockState
from flexplan_runtime.execute.env import ExecutionEnv
from flexplan_runtime.execute.handlers.table import HANDLERS
from flexplan_runtime.execute.lanes import Cancelled, Lane, Run, Token
from flexplan_runtime.execute.pacing import Rests, undisturbed
from flexplan_runtime.execute.views import TaskView
from flexplan_runtime.memory import BlockMemory

Trace = bool | frozenset[int]  # is every task kept, none, or those of these tokens?


@dataclass(frozen=True)
class Flying:
    """A sweep in the lanes."""

    sweep: Sweep
    tokens: list[Token]


class Executor:
    """The lanes of one block, and its tasks in them; the first error of any lane is raised to the caller.

    ``trace``: the timeline keeps every span, or those of these tokens.
    """

    def __init__(
        self,
        graph: TaskGraph,
        block: BlockState,
        memory: BlockMemory,
        env: ExecutionEnv,
        *,
        trace: Trace = False,
    ) -> None:
        self.block = block
        self.memory = memory
        self.env = env
        self.trace = trace
        self.state = Run(env.deadline_s)
        self.lanes: dict[str, Lane] = {}
        self.tracker = Tracker(graph.buffers)
        self.tokens: dict[int, Token] = {}
        self.flying: deque[Flying] = deque()  # the sweep that the lanes are at, and the one behind it
        self.timeline = Timeline()
        self.rests = Rests()
        self.origin: Any = None
        self.stuck = False  # a lane is still at work although the run is over

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While the lanes run; whatever fails, in them or in the caller, ends all of them."""
        with undisturbed():
            try:
                self._reserve_workspace()
                self._start_clock()
                yield
            except Cancelled:
                pass  # the error that cancelled us is raised below
            except BaseException as error:
                self.state.fail(error)
            finally:
                self._end_lanes()
        self.state.raise_error()

    def begin(self, sweep: Sweep) -> Iterator[Node]:
        """The tasks of the next sweep, with their edges; each is to be submitted."""
        self.flying.append(Flying(sweep, []))
        self.state.last_end = time.perf_counter()  # a caller may take its time between two passes
        return self.tracker.nodes(sweep)

    def submit(self, node: Node) -> None:
        """A task into its lane, behind the tasks that it waits for."""
        token = self.tokens[node.number] = Token(node.number, node.task)
        # a number that is not known any more belongs to a sweep that has ended
        self._lane(node.task.lane).submit(token, [self.tokens[n] for n in node.after if n in self.tokens])
        self.flying[-1].tokens.append(token)
        self.rests.rest(self.flying[0].tokens if len(self.flying) > 1 else ())

    def landed(self) -> Iterator[Sweep]:
        """The sweep before the one that was begun last, when it is done."""
        if len(self.flying) > 1:
            yield from self._land(self.flying.popleft())

    def rest(self, finished: Finished) -> Iterator[Sweep]:
        """The sweep that was begun last, when it is done; unless no micro-batch of it has more to say."""
        for last in self.flying:
            if all(map(finished, last.sweep.ks)):
                self.state.end(last.tokens)
            else:
                yield from self._land(last)

    def _end_lanes(self) -> None:
        self.stuck = True  # until all have ended
        for lane in self.lanes.values():
            lane.close()
        self.stuck = any(lane.thread.is_alive() for lane in self.lanes.values())
        self.lanes.clear()  # they and we refer to each other, and to all of the block's memory
        self.tokens.clear()
        self.flying.clear()

    def _reserve_workspace(self) -> None:
        """On the lane that computes, whose memory it is."""
        layout = self.memory.layout
        nbytes = layout.arena_bytes["gpu.workspace"] - layout.captured_bytes
        computing = GPU if self.block.placement.policy.overlap else INLINE
        self._lane(computing).prepare(lambda: self.env.reserve_workspace(nbytes))

    def _lane(self, name: str) -> Lane:
        if name not in self.lanes:
            stream = self.env.stream(name)
            self.lanes[name] = Lane(name, self.state, self._do, self.env.num_threads, stream, timed=self.env.timed)
        return self.lanes[name]

    def _do(self, task: Task) -> None:
        """One task: its handler on its view, no faster than the throttle allows."""
        throttle = self.env.throttle
        until = throttle.reserve(task) if throttle else 0.0
        if self.block.replays is None:
            self._handle(task)
        else:
            self.block.replays.run(task, lambda: self._handle(task))
        if throttle:
            throttle.hold(until)

    def _handle(self, task: Task) -> None:
        HANDLERS[task.kind](TaskView(self.block, task, self.memory))

    def _land(self, done: Flying) -> Iterator[Sweep]:
        """Wait for a sweep, hand it out, count its tasks while the lanes are at the next one."""
        last: dict[str, Any] = {}  # the end of each stream's part of the sweep
        for token in done.tokens:
            self.state.wait(token.issued, token.task.name)
            last[token.task.lane] = token.event
        for event in last.values():
            if event is not None:
                event.synchronize()
        yield done.sweep
        queued = self.flying[-1].tokens if self.flying and self.flying[-1] is not done else ()
        for token in done.tokens:
            self.rests.rest(queued)
            if self.env.timed:
                self._count(token)
            del self.tokens[token.number]
        self.rests.collect()

    def _count(self, token: Token) -> None:
        task, start_s, end_s = token.task, self._seconds(token.start), self._seconds(token.end)
        if self.trace is True or (self.trace and task.i in self.trace):
            self.timeline.add(Span(task.name, task.lane, task.i, start_s, end_s))
        else:
            self.timeline.count(task.lane, task.i, start_s, end_s)
        if token.timer is not None:
            self.state.spare(token.timer)

    def _start_clock(self) -> None:
        self.origin_s = time.perf_counter()
        if self.env.device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # what the caller prepared; the lanes have streams of their own
            self.origin = torch.cuda.Event(enable_timing=True)
            self.origin.record()

    def _seconds(self, moment: Any) -> float:
        """Seconds since the start, of a clock reading or a CUDA event."""
        if isinstance(moment, float):
            return moment - self.origin_s
        return float(self.origin.elapsed_time(moment)) / 1e3
