"""One block that runs: its prompts into the arenas, and the tokens of each pass out of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from flexplan.graph import Access, Sweep, TaskGraph
from flexplan.placement import ID_BYTES, Placement
from flexplan_runtime.execute.block import BlockState
from flexplan_runtime.execute.env import ExecutionEnv
from flexplan_runtime.execute.executor import Executor, Trace
from flexplan_runtime.execute.penalties import Given
from flexplan_runtime.execute.sampling import NO_TOKEN
from flexplan_runtime.memory import BlockMemory

Report = Callable[[int], None]  # tokens of this block so far


@dataclass(frozen=True)
class BlockPlan:
    """The prompts of a block, its graph and where its bytes go."""

    prompts: Sequence[Sequence[int]]
    given: Sequence[Given]  # the same as their caller gave them, padding included
    new_tokens: Sequence[int]  # the most of each
    first_row: int
    graph: TaskGraph
    placement: Placement


class BlockRun:
    """One block from prompts to new tokens, and the lanes that its tasks run in."""

    def __init__(
        self,
        plan: BlockPlan,
        state: BlockState,
        memory: BlockMemory,
        env: ExecutionEnv,
        report: Report,
        *,
        trace: Trace = False,
    ) -> None:
        self.plan = plan
        self.memory = memory
        self.report = report
        self.lanes = Executor(plan.graph, state, memory, env, trace=trace)
        self.stops = frozenset(state.stop_ids.tolist())
        self.tokens: list[list[int]] = [[] for _ in plan.prompts]
        self.broken: dict[int, int] = {}  # for a row whose logits became no numbers, how many tokens it has
        self._fresh: list[int] = []  # rows that have ended, and nobody was told

    @property
    def stuck(self) -> bool:
        """A task that did not end may still write to the block's memory."""
        return self.lanes.stuck

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """With its prompts in place and its lanes at work."""
        for k in range(len(self.plan.placement.block.batches)):
            self._fill_prompt(k)
        with self.lanes.at_work():
            yield

    def finished(self, k: int) -> bool:
        """Have all rows of micro-batch k met their end: a stop token, logits that are no numbers, their most tokens?"""
        rows = self.plan.placement.block.batches[k].rows
        return all(self._ended(row) for row in rows)

    def idle(self, k: int) -> bool:
        """Has micro-batch k no more to say?"""
        return self.finished(k)

    def board(self, sweep: Sweep) -> None:
        """Nobody comes in: all were there when the block began."""

    def _stopped(self, row: int) -> bool:
        return row in self.broken or (bool(self.tokens[row]) and self.tokens[row][-1] in self.stops)

    def fresh(self) -> list[int]:
        """The rows that have ended since this was asked last, in the order of the input."""
        rows, self._fresh = sorted(self._fresh), []
        return rows

    def finish_reason(self, row: int) -> str:
        """Why a row has ended: ``"error"`` is logits that are no numbers."""
        if row in self.broken:
            return "error"
        return "stop" if self.tokens[row][-1] in self.stops else "length"

    def _ended(self, row: int) -> bool:
        """Will it get no more tokens?"""
        return self._stopped(row) or len(self.tokens[row]) >= self.plan.new_tokens[row]

    def _fill_prompt(self, k: int) -> None:
        """The prompts of a micro-batch, padded on the left."""
        batch = self.plan.placement.block.batches[k]
        ids = torch.zeros(batch.num_rows, batch.prompt_len, dtype=torch.int64)
        for n, row in enumerate(batch.rows):
            prompt = self.plan.prompts[row]
            ids[n, batch.prompt_len - len(prompt) :] = torch.tensor(prompt)
        self.memory.bytes_of(Access("ids_host", k, 0, ids.nbytes)).view(torch.int64).view(ids.shape).copy_(ids)

    def take(self, landed: Iterable[Sweep]) -> None:
        """The new tokens of sweeps that are done, each told to the caller."""
        for sweep in landed:
            for k in sweep.ks:
                self._take(k, sweep.i)
            self.report(sum(map(len, self.tokens)))

    def _take(self, k: int, i: int) -> None:
        """The new token of every row of a micro-batch that has not stopped."""
        batch = self.plan.placement.block.batches[k]
        size = batch.num_rows * ID_BYTES
        chosen = self.memory.bytes_of(Access("outputs", k, i * size, (i + 1) * size)).view(torch.int64)
        for row, token in zip(batch.rows, chosen.tolist(), strict=True):
            if self._ended(row):
                continue
            if token == NO_TOKEN:
                self.broken[row] = len(self.tokens[row])
            else:
                self.tokens[row].append(token)
            if self._ended(row):
                self._fresh.append(row)
