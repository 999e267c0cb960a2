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
from typing import NamedTuple

from flexplan.policy.policy import Policy
from flexplan.problem import Workload
from flexplan.problem.ragged import Lens, representatives


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
    """The micro-batches that share one pass over the weights, and how many tokens each row generates.

    With ``door_tokens`` the rows are seats of a rolling schedule: ``prompt_len`` is what a seat has room for, prompt
    and answer, and in a pass newcomers may come to ``doors`` micro-batches, to each with so many tokens of prompts.
    """

    batches: tuple[MicroBatch, ...]
    gen_len: int
    door_tokens: int = 0
    doors: int = 0

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
    total = workload.num_prompts or policy.block_size
    for first in range(0, total, policy.block_size):
        rows = range(first, min(first + policy.block_size, total))
        yield fill_block(first, workload.prompt_lens_of(rows), max(workload.gen_lens_of(rows)), policy.gpu_batch_size)


class BlockKind(NamedTuple):
    """What blocks that take the same have in common: the padded length of every row, and the most new tokens of one."""

    lens: Lens
    gen_len: int

    @property
    def load(self) -> int:
        """Tokens that its passes go over: what its seconds grow with almost evenly."""
        return sum(self.lens) * self.gen_len

    @property
    def workload(self) -> Workload:
        """Of one such block alone."""
        return Workload(prompt_lens=self.lens, gen_len=self.gen_len)


@lru_cache(maxsize=16)  # a planner asks for the same few sizes hundreds of times, of a million prompts
def block_kinds(workload: Workload, gpu_batch_size: int, num_gpu_batches: int) -> Mapping[BlockKind, int]:
    """Each kind of block of a workload, and how many blocks are of that kind.

    >>> [(kind.lens, n) for kind, n in block_kinds(Workload(prompt_lens=(5, 3, 4, 2)), 2, 1).items()]
    [((5, 5), 1), ((4, 4), 1)]
    """
    block_size = gpu_batch_size * num_gpu_batches
    if not workload.prompt_lens and not workload.gen_lens:
        whole, rest = divmod(workload.num_prompts or block_size, block_size)
        sizes = ((rows, n) for rows, n in ((block_size, whole), (rest, 1)) if rows and n)
        return {BlockKind((workload.prompt_len,) * rows, workload.gen_len): n for rows, n in sizes}
    found: Counter[BlockKind] = Counter()
    total = workload.num_prompts or block_size
    for first in range(0, total, block_size):
        rows = range(first, min(first + block_size, total))
        lens = sorted(workload.prompt_lens_of(rows))
        batches = (lens[start : start + gpu_batch_size] for start in range(0, len(lens), gpu_batch_size))
        padded = tuple(batch[-1] for batch in batches for _ in batch)
        found[BlockKind(padded, max(workload.gen_lens_of(rows)))] += 1
    return MappingProxyType(found)


def few_kinds(workload: Workload, policy: Policy) -> dict[BlockKind, float]:
    """Kinds of a workload's blocks, of very many a few, and how many blocks each stands for."""
    kinds = block_kinds(workload, policy.gpu_batch_size, policy.num_gpu_batches)
    return representatives(kinds, lambda kind: len(kind.lens), lambda kind: kind.load)


def full_block(workload: Workload, policy: Policy) -> Block:
    """The block that planning counts on: full, every prompt as long as the longest."""
    lens = (workload.prompt_len,) * policy.block_size
    return fill_block(0, lens, workload.gen_len, policy.gpu_batch_size)
