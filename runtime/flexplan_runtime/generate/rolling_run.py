"""One rolling job that runs: prompts into the arenas when their requests come in, tokens out of each pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch

from flexplan.graph import Access, Sweep
from flexplan.placement import ID_BYTES, PASSES_IN_FLIGHT
from flexplan.schedule import Boarding, Guest
from flexplan_runtime.execute.block import BlockState
from flexplan_runtime.execute.block_run import BlockPlan, Report
from flexplan_runtime.execute.env import ExecutionEnv
from flexplan_runtime.execute.executor import Executor, Trace
from flexplan_runtime.execute.sampling import NO_TOKEN
from flexplan_runtime.execute.seating import DoorState, begins_of
from flexplan_runtime.memory import BlockMemory


class RollingRun:
    """All requests of a job, and the lanes that its tasks run in; to the engine's loop one long block."""

    def __init__(
        self,
        plan: BlockPlan,
        state: BlockState,
        memory: BlockMemory,
        env: ExecutionEnv,
        report: Report,
        *,
        numbers: Sequence[int],
        trace: Trace = False,
    ) -> None:
        self.plan = plan
        self.state = state
        self.memory = memory
        self.report = report
        self.numbers = numbers
        self.lanes = Executor(plan.graph, state, memory, env, trace=trace)
        self.stops = frozenset(state.stop_ids.tolist())
        self.tokens: list[list[int]] = [[] for _ in plan.prompts]
        self.broken: dict[int, int] = {}
        self._fresh: list[int] = []
        self._done = 0
        self._num_tokens = 0

    @property
    def stuck(self) -> bool:
        """A task that did not end may still write to the job's memory."""
        return self.lanes.stuck

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """With its lanes at work, and a cache of numbers: those that are not read weigh nothing, but count."""
        for name in ("cache_gpu", "cache_cpu"):
            buffer = self.plan.graph.buffers.get(name)
            for index, size in enumerate(buffer.sizes if buffer else ()):
                self.memory.bytes_of(Access(name, index, 0, size)).zero_()
        with self.lanes.at_work():
            yield

    def finished(self, request: int) -> bool:
        """Has this request met its end: a stop token, logits that are no numbers, its most tokens?"""
        tokens = self.tokens[request]
        stopped = request in self.broken or (bool(tokens) and tokens[-1] in self.stops)
        return stopped or len(tokens) >= self.plan.new_tokens[request]

    def idle(self, k: int) -> bool:
        """Has nobody more to say, in whatever micro-batch?"""
        return self._done == len(self.tokens)

    def fresh(self) -> list[int]:
        """The requests that have ended since this was asked last, in the order of the input."""
        rows, self._fresh = sorted(self._fresh), []
        return rows

    def finish_reason(self, request: int) -> str:
        """Why a request has ended: ``"error"`` is logits that are no numbers."""
        if request in self.broken:
            return "error"
        return "stop" if self.tokens[request][-1] in self.stops else "length"

    # -- into a pass ----------------------------------------------------------------------------------------------
    def board(self, sweep: Sweep) -> None:
        """Put in place what a pass that is about to begin reads of who is there."""
        boarding: Boarding = sweep.boarding
        number, batches = boarding.number, self.plan.placement.block.batches
        for k, guests in boarding.guests.items():
            begins = begins_of(guests, number, batches[k].num_rows, batches[k].prompt_len)
            self._fill("seats_host", number % PASSES_IN_FLIGHT * len(batches) + k, begins)
            self.state.draws[sweep.i, k] = self._draws(guests, number, batches[k].num_rows)
        doors = self.plan.placement.block.doors
        for place, (k, newcomers) in enumerate(boarding.newcomers.items()):
            ids = torch.tensor([token for guest in newcomers for token in self.plan.prompts[guest.request]])
            self._fill("prompt_ids_host", number % PASSES_IN_FLIGHT * doors + place, ids)
            self.state.doors[1 + number, k] = DoorState(newcomers, self.state.device)
            self.state.draws[-sweep.i, k] = self._draws(newcomers, number, None)

    def _draws(self, guests: Sequence[Guest], number: int, rows: int | None) -> tuple[list[int], list[int]]:
        """The number and the step of each row that chooses: of all seats, or of newcomers alone."""
        if rows is None:
            return [self.numbers[guest.request] for guest in guests], [0] * len(guests)
        found, steps = [0] * rows, [0] * rows
        for guest in guests:
            found[guest.row], steps[guest.row] = self.numbers[guest.request], number - guest.since
        return found, steps

    def _fill(self, buffer: str, index: int, values: torch.Tensor) -> None:
        self.memory.bytes_of(Access(buffer, index, 0, values.nbytes)).view(torch.int64).copy_(values)

    # -- out of a pass --------------------------------------------------------------------------------------------
    def take(self, landed: Iterable[Sweep]) -> None:
        """The new tokens of passes that are done, each told to the caller."""
        for sweep in landed:
            boarding: Boarding = sweep.boarding
            for k in sweep.ks:
                self._take(boarding, k)
                self.state.draws.pop((sweep.i, k), None)
                self.state.draws.pop((-sweep.i, k), None)
                self.state.doors.pop((1 + boarding.number, k), None)
            self.report(self._num_tokens)

    def _take(self, boarding: Boarding, k: int) -> None:
        batches = self.plan.placement.block.batches
        index, nbytes = boarding.number % PASSES_IN_FLIGHT * len(batches) + k, batches[k].num_rows * ID_BYTES
        chosen = self.memory.bytes_of(Access("outputs", index, 0, nbytes)).view(torch.int64).tolist()
        for guest in (*boarding.guests.get(k, ()), *boarding.newcomers.get(k, ())):
            if self.finished(guest.request):  # it ended while this pass was under way
                continue
            token = chosen[guest.row]
            if token == NO_TOKEN:
                self.broken[guest.request] = len(self.tokens[guest.request])
            else:
                self.tokens[guest.request].append(token)
                self._num_tokens += 1
            if self.finished(guest.request):
                self._done += 1
                self._fresh.append(guest.request)
