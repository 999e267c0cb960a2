"""Seats: which request sits where in which pass of a rolling schedule, and who comes in.

A request is computed from its prompt in the pass in which it comes in, which chooses its next token; in each pass from
then on it decodes one more, until it has its most tokens or its end is reported.  Its seat is free in the next pass.

Who outgrows its seat moves to a larger one with its keys and values: when it is full, or a little before, as larger
seats become free when others leave them.  Who finds none steps back::

    pass        n - 1                n                              n + 1 or later
    its seat    is full: the last    is another's                   -
    it          decodes, a token     waits, as that token is not    comes in by a prompt that ends with it, in a seat
                is chosen            yet on the host                that has room; before all others of that size
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

from flexplan.graph import Finished, never
from flexplan.policy import Block, Policy, need_of, stretch_of
from flexplan.problem import Workload

_EARLY = 3  # who has less than this part of a stretch left may move


class Guest(NamedTuple):
    """A request in its seat: row ``row`` of micro-batch ``k``, since pass ``since``, there by ``prompt_len`` tokens.

    ``had`` of these are new tokens of its own, from seats that it has outgrown; ``most`` may yet come.
    """

    request: int
    k: int
    row: int
    since: int
    prompt_len: int
    most: int
    had: int = 0

    def context(self, number: int) -> int:
        """Tokens of it in the cache when pass ``number`` attends, the newest among them."""
        return self.prompt_len + number - self.since

    def chosen(self, number: int) -> int:
        """New tokens of it that are chosen before pass ``number``."""
        return self.had + number - self.since

    @property
    def ends(self) -> int:
        """The pass from which on it has no more to say, if nothing ends it before."""
        return self.since + self.most

    def outgrows(self, room: int) -> int:
        """The pass for which a seat of so many tokens has no more room."""
        return self.since + room + 1 - self.prompt_len


class Move(NamedTuple):
    """A guest that decodes in a larger seat from a pass on; what is in the cache of it goes there before."""

    was: Guest
    now: Guest


@dataclass(frozen=True, slots=True)
class Boarding:
    """Who is there in pass ``number``: ``guests`` decode, by micro-batch; ``newcomers`` bring their prompts.

    ``moves`` come before both, one after the other: a seat that one leaves may be the next one's.
    """

    number: int
    guests: Mapping[int, tuple[Guest, ...]]
    newcomers: Mapping[int, tuple[Guest, ...]]
    contexts: Mapping[int, int]  # tokens that the guests of a micro-batch attend to, all together
    last: bool = False  # nobody can be left behind it
    moves: tuple[Move, ...] = ()

    @property
    def waits(self) -> bool:
        """True where nobody is there: those who have stepped back wait for their last token, and no pass is made."""
        return not self.guests and not self.newcomers

    def attended(self, k: int, window: int) -> int:
        """Tokens that the guests of a micro-batch attend to, all together, where each reads its newest; 0 is all."""
        if not window:
            return self.contexts[k]
        group = self.guests[k]
        decoded = (self.contexts[k] - sum(one.context(0) for one in group)) // len(group)  # the passes of theirs so far
        return sum(min(window, one.context(decoded)) for one in group)

    def prompt_tokens(self, k: int) -> int:
        """Tokens of the prompts that come in at the door of a micro-batch."""
        return sum(guest.prompt_len for guest in self.newcomers.get(k, ()))


@dataclass
class Seats:
    """The seats of a block, and the requests that wait for them: first come, first served, each by its own size.

    A seat serves the requests that need it; once none of those is left, the largest of the smaller ones; of one size
    first who comes again.  Before all of them who has outgrown a smaller one, or is about to.  ``lens`` are on paper
    the answers' lengths, which else are known when they end.
    """

    block: Block
    workload: Workload
    policy: Policy
    lens: Sequence[int] = ()
    _free: list[list[int]] = field(init=False)
    _waiting: list[deque[int]] = field(init=False)
    _back: list[int] = field(init=False)  # who has stepped back in the pass before
    _again: list[deque[int]] = field(init=False)  # who comes again
    _guests: list[dict[int, Guest]] = field(init=False)
    _groups: list[tuple[Guest, ...]] = field(init=False)  # the same; empty where that is to be made anew
    _begins: list[int] = field(init=False)
    _leaves: list[list[tuple[int, Guest]]] = field(init=False)  # heaps, by when they leave at the latest
    _grows: list[list[tuple[int, Guest]]] = field(init=False)  # heaps, by when they outgrow their seats

    def __post_init__(self) -> None:
        self._rooms = [batch.prompt_len for batch in self.block.batches]
        rows = range(self.workload.num_prompts or self.block.num_rows)
        self._prompt_lens, self._most = self.workload.prompt_lens_of(rows), self.workload.gen_lens_of(rows)
        self._stretch = stretch_of(self.workload, self.policy.room_percent) or self.workload.gen_len
        self._had = [0] * len(rows)  # new tokens of those who are to come
        self._waiting = [deque() for _ in self._rooms]
        for request in rows:
            self._waiting[self._size(request, 0)].append(request)
        self._free = [list(range(batch.num_rows)) for batch in self.block.batches]
        self._waiting = [self._ordered(queue, k) for k, queue in enumerate(self._waiting)]
        self._back, self._again = [], [deque() for _ in self._rooms]
        self._guests, self._groups = [{} for _ in self._rooms], [()] * len(self._rooms)
        self._begins = [0] * len(self._rooms)  # of the guests of a micro-batch, the sum of prompts less passes before
        self._leaves, self._grows = [[] for _ in self._rooms], [[] for _ in self._rooms]

    def boardings(self, finished: Finished) -> Iterator[Boarding]:
        """Pass after pass; before each, ``finished`` is asked of every guest: has the request met its end?

        Where there is only who has just stepped back, a boarding of nobody stands for the pass before that has to end.
        """
        number = 0
        while True:
            self._come_again(finished)
            self._leave(number, finished)
            moves = self._move(number)
            if not any(self._guests) and not self._somebody_waits():
                return
            guests = {k: self._group(k) for k, group in enumerate(self._guests) if group}
            contexts = {k: self._begins[k] + number * len(guests[k]) for k in guests}
            newcomers = {k: some for k, some in self._come(number) if some}
            boarding = Boarding(number, guests, newcomers, contexts, self._is_last(number), moves)
            yield boarding
            number += not boarding.waits

    def _group(self, k: int) -> tuple[Guest, ...]:
        """Who decodes in a micro-batch; the same tuple as long as nobody comes or goes."""
        if not self._groups[k]:
            self._groups[k] = tuple(self._guests[k].values())
        return self._groups[k]

    def _size(self, request: int, had: int) -> int:
        """The micro-batch whose seats have room for a request with so many new tokens, and its next stretch."""
        stretch = min(self._stretch, self._most[request] - had)
        return bisect_left(self._rooms, need_of(self._prompt_lens[request] + had, stretch))

    def _ordered(self, queue: deque[int], k: int) -> deque[int]:
        """As they came, but the last ones by the length of their answers: a long one begun late keeps all seats up."""
        rounds = 2 + max(self._most) * len(self._most) // sum(self._most)  # in which the longest comes to its end
        tail = min(len(queue), rounds * self.block.batches[k].num_rows)
        first = [queue.popleft() for _ in range(len(queue) - tail)]
        return deque([*first, *sorted(queue, key=lambda request: -self._most[request])])

    def _come_again(self, finished: Finished) -> None:
        """Who has stepped back waits for a seat, if its last token was not its end."""
        for request in self._back:
            if not finished(request):
                self._again[self._size(request, self._had[request])].append(request)
        self._back = []

    def _leave(self, number: int, finished: Finished) -> None:
        for k, leaves in enumerate(self._leaves):
            while leaves and leaves[0][0] <= number:
                self._clear(k, number, heappop(leaves)[1])
            if finished is not never:
                for guest in [g for g in self._guests[k].values() if finished(g.request)]:
                    self._clear(k, number, guest, ended=True)

    def _move(self, number: int) -> tuple[Move, ...]:
        """Who has outgrown its seat to a larger one, if there is one; then who is about to, where one is left."""
        moves = list[Move]()
        for k in reversed(range(len(self._rooms))):  # the largest first: the seats that they leave serve the others
            while (guest := self._first_to_grow(k)) and guest.outgrows(self._rooms[k]) <= number:
                heappop(self._grows[k])
                to = self._larger(guest, number)
                if to is None:
                    self._clear(k, number, guest)
                else:
                    moves.append(self._shift(guest, to))
        for to in reversed(range(len(self._rooms))):
            while self._free[to] and (guest := self._about_to_grow(to, number, {move.now for move in moves})):
                moves.append(self._shift(guest, to))
        return tuple(moves)

    def _first_to_grow(self, k: int) -> Guest | None:
        """Of those who sit in a micro-batch, who outgrows its seat first."""
        grows = self._grows[k]
        while grows and not self._sits(grows[0][1]):
            heappop(grows)
        return grows[0][1] if grows else None

    def _larger(self, guest: Guest, number: int) -> int | None:
        """The micro-batch with a free seat for who has no more room: rather one of its size than a smaller one.

        One beyond its size only if nobody waits for that, or for one between, but for the next.
        """
        size = self._size(guest.request, guest.chosen(number))
        for k in range(size, guest.k, -1):
            if self._free[k] and self._rooms[k] > self._rooms[guest.k]:
                return k
        for k in range(size + 1, len(self._rooms)):
            if self._free[k]:
                return k
            if self._waiting[k] or self._again[k]:
                return None
        return None

    def _about_to_grow(self, to: int, number: int, moved: Container[Guest]) -> Guest | None:
        """Who is next to outgrow a smaller seat soon, and would fill one of micro-batch ``to``; nobody moves twice."""
        for k in reversed(range(to)):
            guest = self._first_to_grow(k)
            if guest is None or guest in moved or self._rooms[k] == self._rooms[to]:
                continue
            left = guest.outgrows(self._rooms[k]) - number
            if left <= self._stretch / _EARLY and self._size(guest.request, guest.chosen(number)) >= to:
                return guest
        return None

    def _shift(self, guest: Guest, to: int) -> Move:
        """To a free seat of another micro-batch."""
        self._stand_up(guest)
        now = guest._replace(k=to, row=heappop(self._free[to]))
        self._sit_down(now)
        return Move(guest, now)

    def _sits(self, guest: Guest) -> bool:
        return self._guests[guest.k].get(guest.row) is guest

    def _sit_down(self, guest: Guest) -> None:
        k = guest.k
        self._guests[k][guest.row] = guest
        self._groups[k] = ()
        self._begins[k] += guest.context(0)
        heappush(self._leaves[k], (self._leaves_at(guest), guest))
        full = guest.outgrows(self._rooms[k])
        if full < guest.ends:
            heappush(self._grows[k], (full, guest))

    def _stand_up(self, guest: Guest) -> None:
        k = guest.k
        del self._guests[k][guest.row]
        self._groups[k] = ()
        self._begins[k] -= guest.context(0)
        heappush(self._free[k], guest.row)

    def _clear(self, k: int, number: int, guest: Guest, *, ended: bool = False) -> None:
        """Its seat is free, if it has not been for a while; who has more to say steps back."""
        if not self._sits(guest):
            return
        self._stand_up(guest)
        if not ended and guest.chosen(number) < self._len(guest.request):
            self._had[guest.request] = guest.chosen(number)
            self._back.append(guest.request)

    def _len(self, request: int) -> int:
        """Tokens of an answer, as far as they are known."""
        return self.lens[request] if self.lens else self._most[request]

    def _leaves_at(self, guest: Guest) -> int:
        """The pass in which it is gone; an end that nobody could know of shows when its pass is over."""
        length = self._len(guest.request)
        return guest.since + length - guest.had + (length < self._most[guest.request])

    def _come(self, number: int) -> Iterator[tuple[int, tuple[Guest, ...]]]:
        """At a few doors, while a pass takes in more; the doors take turns."""
        left, doors, count = self.policy.admit_tokens or None, self.block.doors, len(self._free)
        if not any(self._waiting) and not any(self._again):
            return
        for step in range(count):
            k = (number + step) % count
            if not self._free[k]:
                continue
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
            had = self._had[queue[0]]
            length = self._prompt_lens[queue[0]] + had
            whole = left == self.policy.admit_tokens
            if tokens + length > self.block.door_tokens:
                break
            if left is not None and tokens + length > left and (some or not whole):
                break
            request = queue.popleft()
            guest = Guest(request, k, heappop(self._free[k]), number, length, self._most[request] - had, had)
            some.append(guest)
            self._sit_down(guest)
            tokens += length
        return tuple(some), tokens

    def _queue(self, k: int) -> deque[int] | None:
        """The requests that a seat of micro-batch k serves next."""
        for smaller in range(k, -1, -1):
            if queue := self._again[smaller] or self._waiting[smaller]:
                return queue
        return None

    def _somebody_waits(self) -> bool:
        return any(self._waiting) or any(self._again) or bool(self._back)

    def _is_last(self, number: int) -> bool:
        if self._somebody_waits():
            return False
        return all(guest.ends <= number + 1 for group in self._guests for guest in group.values())  # seldom asked
