"""The engine's loop, whole: from blocks of prompts to sweeps over the layers to tasks in the lanes, and to tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from flexplan.graph import Timeline
from flexplan_runtime.execute import BlockPlan, BlockRun, Logprob

Begin = Callable[[BlockPlan], AbstractContextManager[BlockRun]]
Stopping = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Done:
    """An answer that has ended: its prompt's place in the input, and its new tokens up to and with the last.

    ``finish_reason`` is ``"stop"``, ``"length"``, or ``"error"`` where the next logits were NaN or infinite.
    ``choice`` counts the answers to one prompt; ``logprobs`` are those of each token, where they were asked for.
    """

    index: int
    token_ids: tuple[int, ...]
    finish_reason: str
    choice: int = 0
    logprobs: tuple[Logprob, ...] | None = None


@dataclass(frozen=True)
class Generation:
    """New tokens of every prompt in the order of the input, each up to and with its stop token.

    ``broken``: for each prompt whose logits became NaN or infinite, how many tokens it has; all others are whole.
    ``timelines`` has each block's as measured: sums, and with ``trace=True`` every task.
    """

    tokens: list[list[int]]
    timelines: list[Timeline]
    broken: Mapping[int, int] = field(default_factory=dict)


def run_blocks(
    plans: Iterable[BlockPlan], begin: Begin, stopping: Stopping = lambda: False
) -> Iterator[Done | Timeline]:
    """Each prompt when it has ended, and the timeline of each block behind its last prompt.

    Two sweeps are in flight: one is in the lanes already when the tokens of the one before it are taken.  To drain the
    lanes would cost every pass more than the one pass at the end that turns out not to be wanted.  Once ``stopping``
    says so no pass begins: what is in flight is finished, and prompts that have not ended by then are left out.
    """
    for plan in plans:  # prompts that share every pass over the weights
        if stopping():
            return
        with begin(plan) as block:  # memory, prompts in their places, a thread a lane
            for sweep in plan.graph.sweeps(block.finished):  # a token for each row that has not stopped
                block.board(sweep)  # who is there, where that changes
                for node in block.lanes.begin(sweep):  # a task, and the tasks that it waits for
                    block.lanes.submit(node)
                block.take(block.lanes.landed())
                yield from _done(block)
                if stopping():
                    break
            block.take(block.lanes.rest(block.idle))
            yield from _done(block)
        yield block.lanes.timeline
        del block  # the next one may need its memory


def _done(block: BlockRun) -> Iterator[Done]:
    """The rows that have just ended, counted through all blocks."""
    for row in block.fresh():
        tokens, logprobs = block.told(row)
        told = None if block.plan.rows[row].logprobs is None else logprobs
        yield Done(block.plan.first_row + row, tokens, block.finish_reason(row), logprobs=told)


def joined(run: Iterable[Done | Timeline]) -> Generation:
    """A whole run, in the order of its prompts."""
    found: dict[int, Done] = {}
    timelines: list[Timeline] = []
    for one in run:
        if isinstance(one, Done):
            found[one.index] = one
        else:
            timelines.append(one)
    tokens = [list(found[index].token_ids) for index in range(len(found))]
    broken = {n: len(found[n].token_ids) for n in range(len(found)) if found[n].finish_reason == "error"}
    return Generation(tokens, timelines, broken)
