"""Seats: which request sits where in which pass of a rolling schedule, and who comes in.

A request is computed from its prompt in the pass in which it comes in, which chooses its first token; in each pass from
then on it decodes one more, until it has its most tokens or its end is reported.  Its seat is free in the next pass.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

from flexplan.graph import Finished, never
from flexplan.policy import Block, need_of
from flexplan.problem import Workload

_TAIL = 3  # requests a seat that are left


class Guest(NamedTuple):
    """A request in its seat: row ``row`` of micro-batch ``k``, since pass ``since``."""

    request: int
    k: int
    row: int
    since: int
    prompt_len: int
    most: int

    def context(self, number: int) -> int:
        """Tokens of it in the cache when pass ``number`` attends, the newest among them."""
        return self.prompt_len + number - self.since

    @property
    def ends(self) -> int:
        """The pass from which on its seat is free, if nothing ends it before."""
        return self.since + self.most


@dataclass(frozen=True, slots=True)
class Boarding:
    """Who is there in pass ``number``: ``guests`` decode, by micro-batch; ``newcomers`` bring their prompts."""

    number: int
    guests: Mapping[int, tuple[Guest, ...]]
    newcomers: Mapping[int, tuple[Guest, ...]]
    contexts: Mapping[int, int]  # tokens that the guests of a micro-batch attend to, all together
    last: bool = False  # nobody can be left behind it

    def prompt_tokens(self, k: int) -> int:
        """Tokens of the prompts that come in at the door of a micro-batch."""
        return sum(guest.prompt_len for guest in self.newcomers.get(k, ()))


@dataclass
class Seats:
    """The seats of a block, and the requests that wait for them: first come, first served, each by its own size.

    A seat serves the requests that need it; once none of those is left, the largest of the smaller ones.
    """

    block: Block
    workload: Workload
    admit_tokens: int = 0
    _free: list[list[int]] = field(init=False)
    _waiting: list[deque[int]] = field(init=False)
    _guests: list[dict[int, Guest]] = field(init=False)
    _begins: list[int] = field(init=False)
    _ends: list[list[tuple[int, Guest]]] = field(init=False)  # heaps, by when they end at the latest

    def __post_init__(self) -> None:
        rooms = [batch.prompt_len for batch in self.block.batches]
        rows = range(self.workload.num_prompts or self.block.num_rows)
        self._prompt_lens, self._most = self.workload.prompt_lens_of(rows), self.workload.gen_lens_of(rows)
        self._waiting = [deque() for _ in rooms]
        for request in rows:
            need = need_of(self._prompt_lens[request], self._most[request])
            self._waiting[bisect_left(rooms, need)].append(request)
        self._free = [list(range(batch.num_rows)) for batch in self.block.batches]
        self._waiting = [self._ordered(queue, k) for k, queue in enumerate(self._waiting)]
        self._guests = [{} for _ in rooms]
        self._begins = [0] * len(rooms)  # of the guests of a micro-batch, the sum of prompts less passes before them
        self._ends = [[] for _ in rooms]

    def boardings(self, finished: Finished) -> Iterator[Boarding]:
        """Pass after pass; before each, ``finished`` is asked of every guest: has the request met its end?"""
        number = 0
        while True:
            self._leave(number, finished)
            if not any(self._guests) and not any(self._waiting):
                return
            guests = {k: tuple(group.values()) for k, group in enumerate(self._guests) if group}
            contexts = {k: self._begins[k] + number * len(guests[k]) for k in guests}
            newcomers = {k: some for k, some in self._come(number) if some}
            yield Boarding(number, guests, newcomers, contexts, self._is_last(number))
            number += 1

    def _ordered(self, queue: deque[int], k: int) -> deque[int]:
        """As they came, but the last ones by the length of their answers: a long one begun late keeps all seats up."""
        tail = min(len(queue), _TAIL * self.block.batches[k].num_rows)
        first = [queue.popleft() for _ in range(len(queue) - tail)]
        return deque([*first, *sorted(queue, key=lambda request: -self._most[request])])

    def _leave(self, number: int, finished: Finished) -> None:
        for k, ends in enumerate(self._ends):
            while ends and ends[0][0] <= number:
                self._clear(k, heappop(ends)[1])
            if finished is not never:
                for guest in [g for g in self._guests[k].values() if finished(g.request)]:
                    self._clear(k, guest)

    def _clear(self, k: int, guest: Guest) -> None:
        """Its seat is free, if it has not been for a while."""
        if self._guests[k].get(guest.row) is guest:
            del self._guests[k][guest.row]
            self._begins[k] -= guest.context(0)
            heappush(self._free[k], guest.row)

    def _come(self, number: int) -> Iterator[tuple[int, tuple[Guest, ...]]]:
        """At a few doors, while a pass takes in more; the doors take turns."""
        left, doors, count = self.admit_tokens or None, self.block.doors, len(self._free)
        for step in range(count):
            k = (number + step) % count
            if not doors:
                return
            some, tokens = self._at_door(k, number, left)
            if some:
                yield k, some
                doors -= 1
                if left is not None:
                    left = max(0, left - tokens)
                    if not left:
                        return

    def _at_door(self, k: int, number: int, left: int | None) -> tuple[tuple[Guest, ...], int]:
        """Those who come to micro-batch k, and the tokens of their prompts; the first of a pass whatever is left."""
        some, tokens = list[Guest](), 0
        while self._free[k] and (queue := self._queue(k)):
            length = self._prompt_lens[queue[0]]
            whole = left == self.admit_tokens
            if tokens + length > self.block.door_tokens:
                break
            if left is not None and tokens + length > left and (some or not whole):
                break
            request = queue.popleft()
            guest = Guest(request, k, heappop(self._free[k]), number, length, self._most[request])
            some.append(guest)
            self._guests[k][guest.row] = guest
            self._begins[k] += guest.context(0)
            heappush(self._ends[k], (guest.ends, guest))
            tokens += length
        return tuple(some), tokens

    def _queue(self, k: int) -> deque[int] | None:
        """The requests that a seat of micro-batch k serves next."""
        return next((self._waiting[smaller] for smaller in range(k, -1, -1) if self._waiting[smaller]), None)

    def _is_last(self, number: int) -> bool:
        if any(self._waiting):
            return False
        return all(guest.ends <= number + 1 for group in self._guests for guest in group.values())  # seldom asked
