"""Rooms: how long a request each micro-batch of a rolling schedule has a seat for, and what comes in at its door.

A seat is kept for the longest request that may take it, so seats are of different sizes: as many for requests of each
size as these sit for passes.  The seats of a micro-batch are padded to its largest, so those of a few very large ones
are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from flexplan.policy.blocks import Block, MicroBatch
from flexplan.policy.policy import Policy
from flexplan.problem import Workload

_DOOR_TOKENS = 4096  # of prompts that go through a layer together: products of so many rows are near the best
_STEPS = 256  # places at which seats may be divided
_PASS_TOKENS = 16384  # of the prompts of a pass, whose hidden states all wait for the next layer


def need_of(prompt_len: int, gen_len: int) -> int:
    """Tokens that a request keeps at the most: its last one is never read.

    >>> need_of(5, 1)
    5
    """
    return prompt_len + gen_len - 1


def rolling_block(workload: Workload, policy: Policy) -> Block:
    """The seats of a policy for a list of requests."""
    return _block(workload, policy.gpu_batch_size, policy.num_gpu_batches)


@lru_cache(maxsize=64)
def _block(workload: Workload, gpu_batch_size: int, num_gpu_batches: int) -> Block:
    total = workload.num_prompts or gpu_batch_size * num_gpu_batches
    seats = min(total, gpu_batch_size * num_gpu_batches)
    rows = range(total if workload.prompt_lens or workload.gen_lens else 1)  # equal ones: one stands for all
    sizes = seat_sizes(workload.prompt_lens_of(rows), workload.gen_lens_of(rows), seats)
    batches, first = list[MicroBatch](), 0
    for end in divided(sizes, min(num_gpu_batches, seats), gpu_batch_size):
        batches.append(MicroBatch(tuple(range(first, end)), sizes[end - 1]))
        first = end
    tokens = max(workload.prompt_len, min(_DOOR_TOKENS, gpu_batch_size * workload.prompt_len))
    return Block(tuple(batches), 1, tokens, max(1, min(len(batches), _PASS_TOKENS // tokens)))


def seat_sizes(prompt_lens: Sequence[int], gen_lens: Sequence[int], seats: int) -> list[int]:
    """Tokens of each of some seats, ascending: of all passes that requests sit, each seat has its part, by their size.

    >>> seat_sizes([10, 10, 10, 100], [11, 11, 11, 1], 4)
    [20, 20, 20, 100]
    """
    needs = sorted((need_of(prompt, most), most) for prompt, most in zip(prompt_lens, gen_lens, strict=True))
    total, sizes, taken = sum(gen_lens), list[int](), 0
    for need, most in needs:
        taken += most
        while len(sizes) < seats - 1 and taken * seats >= (len(sizes) + 1) * total:
            sizes.append(need)
    return [*sizes, *[needs[-1][0]] * (seats - len(sizes))]


def divided(sizes: Sequence[int], count: int, usual: int) -> list[int]:
    """Where each of ``count`` micro-batches of ascending seats ends, so that all take the least when padded.

    None has more than twice the usual number of seats.

    >>> divided([1, 1, 1, 1, 1, 9], 2, 3), divided([5] * 6, 3, 2)
    ([5, 6], [2, 4, 6])
    """
    if sizes[0] == sizes[-1]:
        return [min(len(sizes), usual * (n + 1)) for n in range(-(-len(sizes) // usual))]
    import numpy as np  # takes as long as all of flexplan, for what few plans have

    ends = np.array(sorted({round(len(sizes) * n / _STEPS) for n in range(1, _STEPS + 1)} - {0}))
    starts, padded = np.concatenate([[0], ends[:-1]]), np.array(sizes)[ends - 1]
    rows = ends[None, :] - starts[:, None]  # of a micro-batch from one of these to one of those
    costs = np.where((rows > 0) & (rows <= 2 * usual), rows * padded[None, :], np.inf)
    least, back = costs[0], list[Any]()
    for _ in range(count - 1):
        further = np.vstack([np.full((1, len(ends)), np.inf), least[:-1, None] + costs[1:]])
        chosen = further.argmin(0)
        back.append(np.where(further[chosen, range(len(ends))] < least, chosen, -1))
        least = np.minimum(least, further.min(0))
    found, at = list[int](), len(ends) - 1
    for step in reversed(back):
        if step[at] >= 0:
            found.append(int(ends[at]))
            at = int(step[at]) - 1
    return [*reversed([*found, int(ends[at])])]
