"""The engine's loop, whole: from blocks of prompts to sweeps over the layers to tasks in the lanes, and to tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from flexplan.graph import Timeline
from flexplan_runtime.execute import BlockPlan, BlockRun

Begin = Callable[[BlockPlan], AbstractContextManager[BlockRun]]


@dataclass(frozen=True)
class Generation:
    """New tokens of every prompt in the order of the input, each up to and with its stop token.

    ``broken``: for each prompt whose logits became NaN or infinite, how many tokens it has; all others are whole.
    ``timelines`` has each block's as measured: sums, and with ``trace=True`` every task.
    """

    tokens: list[list[int]]
    timelines: list[Timeline]
    broken: Mapping[int, int] = field(default_factory=dict)


def run_blocks(plans: Iterable[BlockPlan], begin: Begin) -> Iterator[Generation]:
    """The new tokens of block after block, each when it is done.

    Two sweeps are in flight: one is in the lanes already when the tokens of the one before it are taken.  To drain the
    lanes would cost every pass more than the one pass at the end that turns out not to be wanted.
    """
    for plan in plans:  # prompts that share every pass over the weights
        with begin(plan) as block:  # memory, prompts in their places, a thread a lane
            for sweep in plan.graph.sweeps(block.finished):  # a token for each row that has not stopped
                for node in block.lanes.begin(sweep):  # a task, and the tasks that it waits for
                    block.lanes.submit(node)
                block.take(block.lanes.landed())
            block.take(block.lanes.rest(block.finished))
        yield _generation(block)
        del block  # the next one may need its memory


def _generation(block: BlockRun) -> Generation:
    """With rows counted as the caller counts them."""
    first = block.plan.first_row
    return Generation(block.tokens, [block.lanes.timeline], {first + row: n for row, n in block.broken.items()})


def joined(blocks: Iterable[Generation]) -> Generation:
    """Block after block."""
    broken: dict[int, int] = {}
    whole = Generation([], [], broken)
    for block in blocks:
        whole.tokens.extend(block.tokens)
        whole.timelines.extend(block.timelines)
        broken.update(block.broken)
    return whole
