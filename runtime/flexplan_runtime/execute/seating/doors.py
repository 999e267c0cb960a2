"""What one pass knows of the newcomers to a micro-batch, whose prompts stand one behind the other as one row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from flexplan.schedule import Guest


class Span(NamedTuple):
    """A newcomer's tokens ``start .. stop`` among those of its door, and the row that it takes."""

    guest: Guest
    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    def kept(self, room: int) -> slice:
        """Its tokens, among those of its door, that a ring of ``room`` columns keeps: the last ones."""
        return slice(max(self.start, self.stop - room), self.stop)

    def columns(self, room: int) -> Iterator[tuple[int, int, int]]:
        """Where its keys and values go in a ring of ``room`` columns: (column, first token that is kept, tokens).

        Tokens are counted from the first that is kept.  The last column is that of the pass in which it came: the next
        pass writes the next one.
        """
        length = min(self.length, room)
        first = (self.guest.since + 1 - length) % room
        until = min(length, room - first)
        yield first, 0, until
        if until < length:
            yield 0, until, length - until


@dataclass
class DoorState:
    """The newcomers of one pass to one micro-batch, and the device on which they are computed."""

    guests: Sequence[Guest]
    device: torch.device

    @cached_property
    def spans(self) -> list[Span]:
        """One behind the other."""
        found, at = [], 0
        for guest in self.guests:
            found.append(Span(guest, at, at + guest.prompt_len))
            at += guest.prompt_len
        return found

    @cached_property
    def positions(self) -> Tensor:
        """(1, T) positions, each in its prompt's own counting; made by the lane that computes."""
        return torch.cat([torch.arange(span.length) for span in self.spans])[None].to(self.device)

    @cached_property
    def ends(self) -> Tensor:
        """Which of the T tokens are the last of their prompts."""
        return torch.tensor([span.stop - 1 for span in self.spans]).to(self.device)

    @cached_property
    def seats(self) -> Tensor:
        """The rows that they take."""
        return torch.tensor([span.guest.row for span in self.spans]).to(self.device)
