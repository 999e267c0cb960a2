"""Rooms: how long a request each micro-batch of a rolling schedule has a seat for, and what comes in at its door.

Seats are of different sizes: as many for requests of each size as these sit for passes.  The seats of a micro-batch are
padded to its largest, so those of a few very large ones are few.  A request sits where there is room for its prompt
and a stretch of its answer (`stretch_of`); one that has outgrown its seat moves to a larger one, and the
largest seats have room for the longest that there may be.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from math import ceil
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


def stretch_of(workload: Workload, room_percent: float) -> int:
    """New tokens that a seat has room for beyond those that are there when a request comes in; 0 is all that may be.

    One number for all requests: with the room that long answers leave empty for long, and with the prompts that are
    computed again for it, the best is about the square root of a prompt's length, however long the answer is.

    >>> stretch_of(Workload(gen_len=100, expected_lens=(10, 30)), 150.0)
    30
    """
    rows = workload.num_prompts or 1
    return ceil(room_percent / 100 * workload.new_tokens(rows) / rows)


def rolling_block(workload: Workload, policy: Policy) -> Block:
    """The seats of a policy for a list of requests."""
    return _block(workload, policy.gpu_batch_size, policy.num_gpu_batches, policy.room_percent)


@lru_cache(maxsize=64)
def _block(workload: Workload, gpu_batch_size: int, num_gpu_batches: int, room_percent: float) -> Block:
    total = workload.num_prompts or gpu_batch_size * num_gpu_batches
    seats = min(total, gpu_batch_size * num_gpu_batches)
    alike = not (workload.prompt_lens or workload.gen_lens or workload.expected_lens)
    rows = range(1 if alike else total)  # of equal ones one stands for all
    longest = max(map(need_of, workload.prompt_lens_of(rows), workload.gen_lens_of(rows)))
    sizes = seat_sizes(_stays(workload, rows, room_percent), longest, seats)
    ends = divided(sizes, min(num_gpu_batches, seats), gpu_batch_size)
    rooms = [sizes[end - 1] for end in ends]
    if room_percent:
        ends = _balanced(ends, rooms, _stays(workload, rows, room_percent, rooms), 2 * gpu_batch_size)
    batches, first = list[MicroBatch](), 0
    for end, room in zip(ends, rooms, strict=True):
        if end > first:
            batches.append(MicroBatch(tuple(range(first, end)), room))
            first = end
    again = max((batch.prompt_len + 1 for batch in batches if batch.prompt_len < longest), default=0)
    longest_prompt = max(workload.prompt_len, again if room_percent else 0)
    tokens = max(longest_prompt, min(_DOOR_TOKENS, gpu_batch_size * longest_prompt))
    return Block(tuple(batches), 1, tokens, max(1, min(len(batches), _PASS_TOKENS // tokens)))


def _stays(
    workload: Workload, rows: range, room_percent: float, rooms: Sequence[int] = ()
) -> Iterator[tuple[int, int]]:
    """(tokens, passes) of each seat that a request takes in turn, where answers turn out as is likely.

    The tokens are those that it asks for; of ``rooms`` those that it is given, which it uses up.
    """
    stretch = stretch_of(workload, room_percent) or workload.gen_len
    each = workload.prompt_lens_of(rows), workload.gen_lens_of(rows), workload.likely_lens_of(rows)
    for prompt, most, likely in zip(*each, strict=True):
        had = 0
        while had < likely:
            need = need_of(prompt, min(most, had + stretch))
            room = rooms[bisect_left(rooms, need)] if rooms else need
            sits = min(room + 1 - prompt - had, likely - had)
            yield room, sits
            had += sits


def _balanced(ends: Sequence[int], rooms: Sequence[int], stays: Iterable[tuple[int, int]], most: int) -> list[int]:
    """Ends of micro-batches of these rooms: each has its part of the seats by the stays, and the larger rather more."""
    passes = Counter[int]()
    for room, sits in stays:
        passes[room] += sits
    total, found, at = passes.total(), list[int](), 0
    for n, room in enumerate(rooms):
        at += passes[room]
        later = ends[-1] - sum(1 for _ in rooms[n + 1 :])
        first = found[-1] if found else 0
        found.append(min(max(first + 1, at * ends[-1] // total), later, first + most))
    found[-1] = ends[-1]
    return found


def seat_sizes(stays: Iterable[tuple[int, int]], longest: int, seats: int) -> list[int]:
    """Tokens of each of some seats, ascending: of all passes that requests sit, each seat has its part, by their size.

    ``stays`` are (tokens, passes); the last seat has room for the ``longest``.

    >>> seat_sizes([(20, 11), (20, 11), (20, 11), (100, 1)], 100, 4)
    [20, 20, 20, 100]
    """
    passes = Counter[int]()
    for need, sits in stays:
        passes[need] += sits
    total, sizes, taken = passes.total(), list[int](), 0
    for need in sorted(passes):
        taken += passes[need]
        while len(sizes) < seats - 1 and taken * seats >= (len(sizes) + 1) * total:
            sizes.append(need)
    return [*sizes, *[longest] * (seats - len(sizes))]


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
