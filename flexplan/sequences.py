"""Sequences of what is made when it is looked at: of a million members none is held."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar, overload

T = TypeVar("T")


class LazySequence(Sequence[T]):
    """Has a length, and makes the member at a place; a slice is a list of those."""

    @abstractmethod
    def made_at(self, at: int) -> T:
        """The member there; raises IndexError behind the last."""

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> list[T]: ...
    def __getitem__(self, at: int | slice) -> T | list[T]:
        if isinstance(at, slice):
            return [self.made_at(n) for n in range(*at.indices(len(self)))]
        return self.made_at(at)
