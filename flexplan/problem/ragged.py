"""Prompts of many lengths: a typical block, and a few blocks that stand for all of a workload.

Blocks are filled in input order and padded by micro-batch, so ragged blocks are hardly ever equal.  What a
block takes grows almost evenly with its padded tokens, so a few are enough to know the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

from flexplan.problem.problem import Workload

Lens = tuple[int, ...]  # padded lengths of a block's rows, micro-batch by micro-batch

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


@lru_cache(maxsize=2)  # asked for at each block size, of a million prompts
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


def representatives(shapes: Mapping[Lens, int]) -> dict[Lens, float]:
    """A few of these blocks with how often each counts, so that their sum stands for all: between two, linearly."""
    found: dict[Lens, float] = {}
    for rows in {len(lens) for lens in shapes}:
        alike = sorted((lens for lens in shapes if len(lens) == rows), key=lambda lens: (sum(lens), lens))
        anchors = _spread(alike)
        for lens in alike:
            for anchor, part in _parts(sum(lens), lens, anchors):
                found[anchor] = found.get(anchor, 0.0) + part * shapes[lens]
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


def _spread(alike: Sequence[Lens]) -> list[Lens]:
    if len(alike) <= _ANCHORS:
        return list(alike)
    picked = (alike[n * (len(alike) - 1) // (_ANCHORS - 1)] for n in range(_ANCHORS))
    return list({sum(lens): lens for lens in picked}.values())


def _parts(tokens: int, lens: Lens, anchors: Sequence[Lens]) -> list[tuple[Lens, float]]:
    """The anchors around a block, and how much of it each stands for."""
    if lens in anchors:
        return [(lens, 1.0)]
    for below, above in pairwise(anchors):
        low, high = sum(below), sum(above)
        if low <= tokens <= high:
            part = (tokens - low) / (high - low)
            return [(below, 1 - part), (above, part)]
    return [(anchors[0], 1.0)]  # all are as heavy as this one
