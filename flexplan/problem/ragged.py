"""Prompts of many lengths: a typical block, and a few blocks that stand for all of a workload.

Blocks are filled in input order and padded by micro-batch, so ragged blocks are hardly ever equal.  What a
block takes grows almost evenly with its padded tokens, so a few are enough to know the others.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from math import ceil
from typing import TypeVar

from flexplan.problem.problem import Workload

Lens = tuple[int, ...]  # padded lengths of a block's rows, micro-batch by micro-batch

Kind = TypeVar("Kind", bound=Hashable)

_ANCHORS = 3  # the lightest, the middle and the heaviest of the blocks with as many rows


def typical_lens(workload: Workload, rows: int) -> Lens:
    """Prompt lengths of a typical block: the middle of each of ``rows`` equal parts of all lengths, in order.

    >>> typical_lens(Workload(prompt_lens=(1, 2, 3, 4, 5, 6)), 3)
    (2, 4, 6)
    """
    lens = _in_order(workload.prompt_lens)
    if not lens:
        return (workload.prompt_len,) * rows
    return tuple(lens[(2 * row + 1) * len(lens) // (2 * rows)] for row in range(rows))


def typical_gen_len(workload: Workload, rows: int) -> int:
    """The most new tokens that one of ``rows`` prompts of a typical block asks for: in half of such blocks, no more.

    >>> typical_gen_len(Workload(gen_lens=(1, 2, 3, 4, 5, 6, 7, 8)), 2)
    6
    """
    lens = _in_order(workload.gen_lens)
    return lens[ceil(0.5 ** (1 / rows) * len(lens)) - 1] if lens else workload.gen_len


@lru_cache(maxsize=4)  # asked for at each block size, of a million prompts
def _in_order(lens: Lens) -> Lens:
    return tuple(sorted(lens))


def padded_mean(workload: Workload, gpu_batch_size: int, num_gpu_batches: int) -> float:
    """Tokens of a row of a typical block, each micro-batch padded to its longest prompt.

    >>> padded_mean(Workload(prompt_lens=(10, 20, 30, 40)), 2, 2)
    30.0
    """
    if not workload.prompt_lens:
        return float(workload.prompt_len)
    lens = typical_lens(workload, gpu_batch_size * num_gpu_batches)
    return sum(lens[gpu_batch_size - 1 :: gpu_batch_size]) / num_gpu_batches


def representatives(
    counts: Mapping[Kind, int], rows: Callable[[Kind], int], load: Callable[[Kind], int]
) -> dict[Kind, float]:
    """A few of these kinds with how often each counts, so that their sum stands for all: by load, linearly between two.

    Kinds of the same number of rows stand for each other.
    """
    found: dict[Kind, float] = {}
    for size in {rows(kind) for kind in counts}:
        alike = sorted((kind for kind in counts if rows(kind) == size), key=load)
        anchors = _spread(alike, load)
        for kind in alike:
            for anchor, part in _parts(kind, anchors, load):
                found[anchor] = found.get(anchor, 0.0) + part * counts[kind]
    return found


def envelope(shapes: Sequence[Lens]) -> list[Lens]:
    """For each number of rows the block that is nowhere shorter than any of these: what holds it, holds them all.

    >>> envelope([(1, 5), (2, 4), (3,)])
    [(3,), (2, 5)]
    """
    return [
        tuple(map(max, zip(*(lens for lens in shapes if len(lens) == rows), strict=True)))
        for rows in sorted({len(lens) for lens in shapes})
    ]


def _spread(alike: Sequence[Kind], load: Callable[[Kind], int]) -> list[Kind]:
    if len(alike) <= _ANCHORS:
        return list(alike)
    picked = (alike[n * (len(alike) - 1) // (_ANCHORS - 1)] for n in range(_ANCHORS))
    return list({load(kind): kind for kind in picked}.values())


def _parts(kind: Kind, anchors: Sequence[Kind], load: Callable[[Kind], int]) -> list[tuple[Kind, float]]:
    """The anchors around a block, and how much of it each stands for."""
    if kind in anchors:
        return [(kind, 1.0)]
    for below, above in pairwise(anchors):
        low, high = load(below), load(above)
        if low <= load(kind) <= high:
            part = (load(kind) - low) / (high - low)
            return [(below, 1 - part), (above, part)]
    return [(anchors[0], 1.0)]  # all are as heavy as this one
