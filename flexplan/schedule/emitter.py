"""What the verbs of a schedule share: where tensors lie, the lanes of tasks, and the turns in which rings are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import Any, TypeVar
from weakref import WeakMethod

from flexplan.graph import INLINE, KINDS, Access, Task, Work
from flexplan.model import Layer
from flexplan.placement import Layout, Placement

Tasks = Iterator[Task]
Accesses = tuple[Access, ...]
T = TypeVar("T")


class Pass:
    """One pass over the layers: the ``number``-th of the graph, token ``i`` of the micro-batches ``ks`` in order."""

    __slots__ = ("_place", "i", "ks", "number")

    def __init__(self, number: int, i: int, ks: tuple[int, ...]) -> None:
        self.number = number
        self.i = i
        self.ks = ks
        self._place = {k: place for place, k in enumerate(ks)}

    def turn(self, group: int, k: int) -> int:
        """A running count within the pass, over (group, micro-batch)."""
        return group * len(self.ks) + self._place[k]


def access(buffer: str, index: int, size: int) -> Accesses:
    """The first ``size`` bytes of a slot, if there are any."""
    return (Access(buffer, index, 0, size),) if size else ()


def remembered(method: Callable[..., T], maxsize: int | None = None) -> Callable[..., T]:
    """What a method of a living object answers, kept without a cycle, which only a collection would free."""
    weak = WeakMethod(method)

    def answer(*args: Any) -> T:
        alive = weak()
        assert alive is not None, "only the object itself asks"
        return alive(*args)

    return lru_cache(maxsize)(answer)


class Emitter:
    """Writes tasks of one block."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.layers = placement.layers
        self._lanes = {kind: KINDS[kind].lane if placement.policy.overlap else INLINE for kind in KINDS}
        self._turns = cache(Layout.of(placement).turns)
        self._num_batches = len(placement.block.batches)

    def _task(
        self, kind: str, p: Pass, j: int, k: int, work: Work, reads: Accesses, writes: Accesses, part: int = 0
    ) -> Task:
        return Task(kind, self._lanes[kind], p.i, j, k, part, work, reads, writes)

    def _attended(self, p: Pass, layer: Layer, k: int) -> float:
        """Positions of one row that it reads in this pass, in the mean of a micro-batch."""
        context = self.placement.context(p.i, k)
        return self.placement.shape.attended(layer.depth, context) if layer.attends else context

    def _turn(self, p: Pass, group: int, groups: int, k: int) -> int:
        """The index of what a ring holds for one of ``groups`` turns that micro-batch k has in a pass.

        No two are equal; those of a later pass meet the same slots, so that its steps find their bytes where they were.
        """
        return p.number * self._turns(groups * self._num_batches) + p.turn(group, k)
