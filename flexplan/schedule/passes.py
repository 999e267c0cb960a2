"""A pass over the layers: which token, and of which micro-batches."""

from __future__ import annotations


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
