"""Moves: what the cache holds of a guest goes to a larger seat, by a task a layer and a pair of tiers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from flexplan.placement import Placement
from flexplan.schedule.seats import Move


class MovedHeads(NamedTuple):
    """Heads ``first .. stop`` of a guest, which a task of this kind brings from one tier to another."""

    kind: str
    source: str
    target: str
    first: int
    stop: int


def heads_moved(placement: Placement, depth: int, move: Move) -> Iterator[MovedHeads]:
    """All heads in a transformer layer: the first ones of a row are those at home on the gpu."""
    was, now = (placement.heads_on_gpu(depth, guest.k, guest.row) for guest in move)
    fewer, more = sorted((was, now))
    between = ("move_down", "gpu", "cpu") if was > now else ("move_up", "cpu", "gpu")
    for ways, first, stop in (
        (("move_gpu", "gpu", "gpu"), 0, fewer),
        (between, fewer, more),
        (("move_cpu", "cpu", "cpu"), more, placement.shape.num_kv_heads),
    ):
        if first < stop:
            yield MovedHeads(*ways, first, stop)


def columns_moved(move: Move, number: int, was_room: int, now_room: int) -> Iterator[tuple[int, int, int]]:
    """(column, new column, tokens) of what a guest has before pass ``number``, from one ring to another, in order.

    A token is in the column of the pass in which it came there, modulo the room of the ring, which has the last ones.

    >>> from flexplan.schedule import Guest
    >>> list(columns_moved(Move(Guest(0, 0, 0, 2, 3, 9), Guest(0, 1, 0, 2, 3, 9)), 4, 4, 6))
    [(0, 0, 4)]
    >>> list(columns_moved(Move(Guest(0, 0, 0, 2, 3, 9), Guest(0, 1, 0, 2, 3, 9)), 4, 3, 3))
    [(1, 1, 2), (0, 0, 1)]
    """
    at = number - min(move.was.context(number) - 1, was_room)
    while at < number:
        count = min(number - at, was_room - at % was_room, now_room - at % now_room)
        yield at % was_room, at % now_room, count
        at += count
