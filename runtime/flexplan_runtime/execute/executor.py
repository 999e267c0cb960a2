"""The executor: walks the task graph, lane by lane.  It has no loop over layers; the order is the graph's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from flexplan.graph.edges import Tracker
from flexplan.graph.graph import Finished, TaskGraph
from flexplan.graph.kinds import GPU, INLINE
from flexplan.graph.tasks import Node, Sweep, Task
from flexplan.graph.timeline import Span, Timeline
from flexplan_runtime.execute.block import BlockState
from flexplan_runtime.execute.env import ExecutionEnv
from flexplan_runtime.execute.handlers.table import HANDLERS
from flexplan_runtime.execute.lanes import Cancelled, Lane, Run, Token
from flexplan_runtime.execute.pacing import Pace, undisturbed
from flexplan_runtime.execute.views import TaskView
from flexplan_runtime.memory.block_memory import BlockMemory

OnSweep = Callable[[Sweep], None]


@dataclass(frozen=True)
class Flying:
    """A sweep in the lanes."""

    sweep: Sweep
    tokens: list[Token]


class Executor:
    """Runs the graph of one block; the first error of any lane is raised to the caller.

    ``on_sweep`` is called after each sweep, when the next one is in the lanes already: draining them would cost
    every pass more than the one that turns out not to be wanted.  ``trace``: the timeline keeps every span.
    """

    def __init__(
        self,
        graph: TaskGraph,
        block: BlockState,
        memory: BlockMemory,
        env: ExecutionEnv,
        on_sweep: OnSweep,
        *,
        trace: bool = False,
    ) -> None:
        self.graph = graph
        self.block = block
        self.memory = memory
        self.env = env
        self.on_sweep = on_sweep
        self.trace = trace
        self.state = Run(env.deadline_s)
        self.lanes: dict[str, Lane] = {}
        self.tokens: dict[int, Token] = {}
        self.timeline = Timeline()
        self.pace = Pace()
        self.origin: Any = None
        self.stuck = False  # a lane is still at work although the run is over

    def run(self, finished: Finished) -> Timeline:
        """Execute until the graph ends or every micro-batch has finished; the measured timeline."""
        layout = self.memory.layout
        nbytes = layout.arena_bytes["gpu.workspace"] - layout.captured_bytes
        with undisturbed():
            try:
                first = GPU if self.block.placement.policy.overlap else INLINE
                self._lane(first).prepare(lambda: self.env.reserve_workspace(nbytes))
                self._start_clock()
                self._feed(finished)
            except Cancelled:
                pass  # the error that cancelled us is raised below
            except BaseException as error:
                self.state.fail(error)
            finally:
                self._end_lanes()
        self.state.raise_error()
        return self.timeline

    def _end_lanes(self) -> None:
        self.stuck = True  # until all have ended
        for lane in self.lanes.values():
            lane.close()
        self.stuck = any(lane.thread.is_alive() for lane in self.lanes.values())
        self.lanes.clear()  # they and we refer to each other, and to all of the block's memory
        self.tokens.clear()

    def _feed(self, finished: Finished) -> None:
        """Sweep after sweep into the lanes, two in flight, until no micro-batch of the next one has more to say."""
        tracker, before = Tracker(self.graph.buffers), None
        for sweep in self.graph.sweeps(finished):
            flying = Flying(sweep, [])
            for node in tracker.nodes(sweep):
                flying.tokens.append(self._submit(node))
                self.pace.rest(before.tokens if before else ())
            if before:
                self._land(before, flying.tokens)
            before = flying
        if before and all(map(finished, before.sweep.ks)):
            self.state.end(before.tokens)
        elif before:
            self._land(before, ())

    def _submit(self, node: Node) -> Token:
        lane = self._lane(node.task.lane)
        token = self.tokens[node.number] = Token(node.number, node.task)
        # a number that is not known any more belongs to a sweep that has ended
        lane.submit(token, [self.tokens[n] for n in node.after if n in self.tokens])
        return token

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

    def _land(self, flying: Flying, queued: Sequence[Token]) -> None:
        """Wait for a sweep, tell the caller, count its tasks; the one after it is ``queued``."""
        last: dict[str, Any] = {}  # the end of each stream's part of the sweep
        for token in flying.tokens:
            self.state.wait(token.issued, token.task.name)
            last[token.task.lane] = token.event
        for event in last.values():
            if event is not None:
                event.synchronize()
        self.on_sweep(flying.sweep)
        for token in flying.tokens:
            self.pace.rest(queued)
            if self.env.timed:
                self._count(token)
            del self.tokens[token.number]
        self.pace.collect()

    def _count(self, token: Token) -> None:
        task, start_s, end_s = token.task, self._seconds(token.start), self._seconds(token.end)
        if self.trace:
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
