"""Blocks and micro-batches: which prompts run together.

A block is ``gpu_batch_size x num_gpu_batches`` prompts in input order; inside a block prompts are sorted
by length into micro-batches, so that each is padded to its own longest prompt only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from flexplan.policy.policy import Policy
from flexplan.problem import Lens, Workload


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """``rows`` are the prompts' places in the input; all are padded to ``prompt_len`` tokens."""

    rows: tuple[int, ...]
    prompt_len: int

    @property
    def num_rows(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Block:
    """The micro-batches that share one pass over the weights, and how many tokens each row generates."""

    batches: tuple[MicroBatch, ...]
    gen_len: int

    @property
    def num_rows(self) -> int:
        return sum(batch.num_rows for batch in self.batches)

    @property
    def prompt_len(self) -> int:
        """The longest padded prompt."""
        return max(batch.prompt_len for batch in self.batches)


@lru_cache(maxsize=64)
def fill_block(first: int, prompt_lens: tuple[int, ...], gen_len: int, gpu_batch_size: int) -> Block:
    """The block of the prompts ``first, first + 1, ...`` with these lengths, sorted into micro-batches."""
    order = sorted(range(len(prompt_lens)), key=lambda row: prompt_lens[row])
    groups = [order[start : start + gpu_batch_size] for start in range(0, len(order), gpu_batch_size)]
    return Block(
        tuple(MicroBatch(tuple(first + row for row in rows), max(prompt_lens[row] for row in rows)) for rows in groups),
        gen_len,
    )


def fill_blocks(workload: Workload, policy: Policy) -> Iterator[Block]:
    """All blocks of a workload, in input order; the last may be partial."""
    lens = workload.prompt_lens
    total = workload.num_prompts or policy.block_size
    for first in range(0, total, policy.block_size):
        rows = range(first, min(first + policy.block_size, total))
        row_lens = lens[rows.start : rows.stop] or (workload.prompt_len,) * len(rows)
        yield fill_block(first, row_lens, workload.gen_len, policy.gpu_batch_size)


@lru_cache(maxsize=16)  # a planner asks for the same few sizes hundreds of times, of a million prompts
def block_lens(workload: Workload, gpu_batch_size: int, num_gpu_batches: int) -> Mapping[Lens, int]:
    """The padded length of every row, for each kind of block, and how many blocks are of that kind.

    >>> dict(block_lens(Workload(prompt_lens=(5, 3, 4, 2)), 2, 1))
    {(5, 5): 1, (4, 4): 1}
    """
    block_size = gpu_batch_size * num_gpu_batches
    if not workload.prompt_lens:
        whole, rest = divmod(workload.num_prompts or block_size, block_size)
        return {(workload.prompt_len,) * rows: n for rows, n in ((block_size, whole), (rest, 1)) if rows and n}
    found: Counter[Lens] = Counter()
    for first in range(0, len(workload.prompt_lens), block_size):
        lens = sorted(workload.prompt_lens[first : first + block_size])
        starts = range(0, len(lens), gpu_batch_size)
        batches = (lens[start : start + gpu_batch_size] for start in starts)
        found[tuple(batch[-1] for batch in batches for _ in batch)] += 1
    return MappingProxyType(found)


def full_block(workload: Workload, policy: Policy) -> Block:
    """The block that planning counts on: full, every prompt as long as the longest."""
    lens = (workload.prompt_len,) * policy.block_size
    return fill_block(0, lens, workload.gen_len, policy.gpu_batch_size)
