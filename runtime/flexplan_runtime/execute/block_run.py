"""One block that runs: its prompts into the arenas, and the tokens of each pass out of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch

from flexplan.graph import Access, Sweep, TaskGraph
from flexplan.job import Standing
from flexplan.placement import ID_BYTES, Placement
from flexplan_runtime.execute.block import BlockState
from flexplan_runtime.execute.choosing import NO_TOKEN, Logprob, Row
from flexplan_runtime.execute.env import ExecutionEnv
from flexplan_runtime.execute.executor import Executor, Trace
from flexplan_runtime.memory import BlockMemory

Report = Callable[[Standing], None]  # of this block so far


@dataclass(frozen=True)
class BlockPlan:
    """The rows of a block, its graph and where its bytes go."""

    rows: Sequence[Row]
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
        self.state = state
        self.memory = memory
        self.report = report
        self.lanes = Executor(plan.graph, state, memory, env, trace=trace)
        self.tokens = defaultdict[int, list[int]](list)  # by row, until somebody is told: a job may have a million
        self.logprobs = defaultdict[int, list[Logprob]](list)
        self.num_tokens = self.num_ended = self.num_spared = 0
        self._held = 0  # tokens in the caches of rows that have not ended
        self._reasons = [""] * len(plan.rows)  # why each has ended
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
        """Have all rows of micro-batch k ended?"""
        return all(self._reasons[row] for row in self.plan.placement.block.batches[k].rows)

    def idle(self, k: int) -> bool:
        """Has micro-batch k no more to say?"""
        return self.finished(k)

    def board(self, sweep: Sweep) -> None:
        """Nobody comes in: all were there when the block began."""

    def fresh(self) -> list[int]:
        """The rows that have ended since this was asked last, in the order of the input."""
        rows, self._fresh = sorted(self._fresh), []
        return rows

    def told(self, row: int) -> tuple[tuple[int, ...], tuple[Logprob, ...]]:
        """The new tokens of a row that has ended, and their log-probabilities; kept no longer."""
        return tuple(self.tokens.pop(row, ())), tuple(self.logprobs.pop(row, ()))

    def finish_reason(self, row: int) -> str:
        """Why a row has ended: ``"stop"``, ``"length"``, or ``"error"``: logits that are no numbers."""
        return self._reasons[row]

    def _fill_prompt(self, k: int) -> None:
        """The prompts of a micro-batch, padded on the left."""
        batch = self.plan.placement.block.batches[k]
        ids = torch.zeros(batch.num_rows, batch.prompt_len, dtype=torch.int64)
        for n, row in enumerate(batch.rows):
            prompt = self.plan.rows[row].prompt
            ids[n, batch.prompt_len - len(prompt) :] = torch.tensor(prompt)
            self._held += len(prompt)
        self.memory.bytes_of(Access("ids_host", k, 0, ids.nbytes)).view(torch.int64).view(ids.shape).copy_(ids)

    def take(self, landed: Iterable[Sweep]) -> None:
        """The new tokens of sweeps that are done, each told to the caller."""
        for sweep in landed:
            for k in sweep.ks:
                self._take(k, sweep.i)
            self.report(self.standing())

    def standing(self) -> Standing:
        """How far the block is."""
        live, seats = len(self._reasons) - self.num_ended, self.plan.placement.block.num_rows
        return Standing(self.num_tokens, self.num_spared, live, seats, self._held, self._reserved)

    @cached_property
    def _reserved(self) -> int:
        block = self.plan.placement.block
        return sum(batch.num_rows * (batch.prompt_len + block.gen_len) for batch in block.batches)

    def _take(self, k: int, i: int) -> None:
        """The new token of every row of a micro-batch that has not ended."""
        batch, told = self.plan.placement.block.batches[k], self.state.batches[k].logprobs
        size = batch.num_rows * ID_BYTES
        chosen = self.memory.bytes_of(Access("outputs", k, i * size, (i + 1) * size)).view(torch.int64)
        logprobs = told.take(i) if told else {}
        for n, (row, token) in enumerate(zip(batch.rows, chosen.tolist(), strict=True)):
            if self._reasons[row]:
                continue
            if token != NO_TOKEN and n in logprobs:
                self.logprobs[row].append(logprobs[n])
            self._note(row, token)
            gone = len(self.plan.rows[row].prompt) + len(self.tokens[row]) if self._reasons[row] else 0
            self._held += 1 - gone

    def _note(self, row: int, token: int) -> None:
        """A row's new token, which may be its last."""
        if token != NO_TOKEN:
            self.tokens[row].append(token)
            self.num_tokens += 1
        self._reasons[row] = self._why_ended(row, token)
        if self._reasons[row]:
            self.num_ended += 1
            self.num_spared += self.plan.rows[row].most - len(self.tokens[row])
            self._fresh.append(row)

    def _why_ended(self, row: int, token: int) -> str:
        """The reason for which this was a row's last token; nothing where it goes on."""
        asked, tokens = self.plan.rows[row], self.tokens[row]
        if token == NO_TOKEN:
            return "error"
        if token in asked.stop_ids or (asked.ends is not None and asked.ends(tokens)):
            return "stop"
        return "length" if len(tokens) >= asked.most else ""
