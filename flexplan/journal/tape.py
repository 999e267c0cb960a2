"""A tape: one output as its log tells it, some thirty bytes a line."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence

from flexplan.journal.records import Ended

_HEXADECIMAL = re.compile("[0-9a-f]{16}")


class Tape:
    """Whose lines stand in an output, in their order, where each ends, what they were asked for, and the checksum."""

    def __init__(self) -> None:
        self.numbers = array("q")
        self.ends = array("Q")
        self.crc = 0
        self._digests = array("Q")
        self._other = dict[int, str]()  # digests that are no sixteen hexadecimal digits, by the place of their line

    @property
    def end(self) -> int:
        """Bytes."""
        return self.ends[-1] if self.ends else 0

    @property
    def digests(self) -> Mapping[int, str]:
        """Of each request, by its number."""
        return _Digests(self)

    def add(self, record: Ended) -> None:
        """A line behind the others."""
        self._add(record.number, record.digest, record.end)
        self.crc = record.crc

    def _add(self, number: int, digest: str, end: int) -> None:
        is_plain = _HEXADECIMAL.fullmatch(digest) is not None
        if not is_plain:
            self._other[len(self.numbers)] = digest
        self._digests.append(int(digest, 16) if is_plain else 0)
        self.numbers.append(number)
        self.ends.append(end)

    def digest(self, place: int) -> str:
        """Of the line at a place, counted from 0."""
        return self._other[place] if place in self._other else f"{self._digests[place]:016x}"

    def span(self, place: int) -> tuple[int, int]:
        """The bytes of the line at a place."""
        return self.ends[place - 1] if place else 0, self.ends[place]

    def places(self, numbers: Iterable[int]) -> list[int]:
        """Where these requests' lines stand."""
        at = {number: place for place, number in enumerate(self.numbers)}
        return [at[number] for number in numbers]

    def rewrite(self, numbers: Sequence[int], crc: int) -> None:
        """Only these lines, in this order."""
        places, end = self.places(numbers), 0
        kept = [(self.digest(place), self.span(place)) for place in places]
        self.numbers, self.ends, self._digests = array("q"), array("Q"), array("Q")
        self._other.clear()
        for number, (digest, (low, high)) in zip(numbers, kept, strict=True):
            end += high - low
            self._add(number, digest, end)
        self.crc = crc


class _Digests(Mapping[int, str]):
    """Those of a tape, looked up in it."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._places: dict[int, int] | None = None

    def __getitem__(self, number: int) -> str:
        if self._places is None:
            self._places = {number: place for place, number in enumerate(self._tape.numbers)}
        return self._tape.digest(self._places[number])

    def __iter__(self) -> Iterator[int]:
        return iter(self._tape.numbers)

    def __len__(self) -> int:
        return len(self._tape.numbers)
