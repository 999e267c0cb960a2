"""Prompts of an input by an index: each is read again when it is looked at, and so is a line that is none."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from flexplan.errors import PromptError
from flexplan.journal import request_digest
from flexplan.problem.prompts.lines import Input, Line, LineIndex
from flexplan.problem.prompts.request_line import Api, Chat, Prompt
from flexplan.sequences import LazySequence

T = TypeVar("T")

Make = Callable[[Line, int], Prompt]  # of a line and its place
Name = Callable[[Line, int | None], tuple[str | int | None, Api]]  # what it calls itself, else that number


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no request: its place among the requests, counted from 0, and what is wrong with it.

    ``id`` is what it calls itself, else its place; None where it cannot be read.
    """

    place: int
    line: int
    id: str | int | None
    api: Api
    error: PromptError


class _Indexed(LazySequence[T]):
    """What stands on lines of an input: of a million there is an index of 40 bytes each.

    ``places`` are those among all lines, bad ones too, counted from 0.
    """

    def __init__(self, source: Input) -> None:
        self.places = array("Q")
        self._index, self._digests = LineIndex(source), array("Q")

    def _keep(self, line: Line, place: int, digest: str) -> None:
        self.places.append(place)
        self._index.add(line)
        self._digests.append(int(digest, 16))

    def _read(self, line: Line, place: int) -> T:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.places)

    def made_at(self, at: int) -> T:
        return self._read(self._index.line(at), self.places[at])

    def line(self, at: int) -> Line:
        """As it stands in the input."""
        return self._index.line(at)

    def digest(self, at: int) -> str:
        """What stands there, in short."""
        return f"{self._digests[at]:016x}"


class BadLines(_Indexed[BadLine]):
    """The lines of an input that are no requests."""

    def __init__(self, source: Input, make: Make, name: Name) -> None:
        super().__init__(source)
        self._make, self._name = make, name

    def add(self, line: Line, place: int) -> None:
        """One more."""
        self._keep(line, place, request_digest(["bad", line.raw.decode(errors="surrogateescape")]))

    def _read(self, line: Line, place: int) -> BadLine:
        try:
            self._make(line, place)
        except PromptError as error:
            return BadLine(place, line.number, *self.named(line, place), error)
        raise AssertionError("it was bad")

    def named(self, line: Line, otherwise: int | None) -> tuple[str | int | None, Api]:
        """What a line calls itself, and whose words it is in."""
        return self._name(line, otherwise)


class Prompts(_Indexed[Prompt]):
    """The prompts of an input; lines that are none are ``bad``."""

    def __init__(self, source: Input, make: Make, name: Name) -> None:
        super().__init__(source)
        self.num_characters = 0
        self.draws = False  # does a line by itself?
        self.bad = BadLines(source, make, name)
        self._make = make

    def add(self, line: Line, place: int) -> str | int:
        """One more, and what it is called; raises PromptError where the line is none."""
        prompt = self._make(line, place)
        self._keep(line, place, digest_of(prompt))
        self.num_characters += len(prompt.content)
        self.draws = self.draws or bool(prompt.wishes.draws)
        return prompt.id

    def _read(self, line: Line, place: int) -> Prompt:
        return self._make(line, place)

    def at_place(self, place: int) -> Line:
        """What has this place among all lines, bad ones too."""
        found, at = self.holder_of(place)
        return found.line(at)

    def holder_of(self, place: int) -> tuple[Prompts | BadLines, int]:
        """Which of both has it, and where in it; raises KeyError for a place that the input has not."""
        for found in (self, self.bad):
            at = bisect_left(found.places, place)
            if at < len(found) and found.places[at] == place:
                return found, at
        raise KeyError(place)


def digest_of(prompt: Prompt) -> str:
    """16 hexadecimal digits of what a request asks for."""
    content = list(prompt.content.messages) if isinstance(prompt.content, Chat) else prompt.content
    return request_digest([prompt.id, content, prompt.api, prompt.wishes.digested])
