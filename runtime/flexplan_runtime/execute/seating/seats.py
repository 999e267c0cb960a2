"""What a micro-batch of seats knows of its rows: where each begins in a ring of columns.

Places are counted over two laps of the ring, from its room on to twice its room: the newest token is in the second lap,
and whoever sits began less than a lap before it.  Column is place modulo room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flexplan.placement import Placement
from flexplan.schedule import Guest
from flexplan_runtime.execute.block import BatchState
from flexplan_runtime.execute.choosing import Sampling


@dataclass
class SeatState(BatchState):
    """A micro-batch of seats; ``pads`` and ``position`` are places."""

    room: int = 0
    heads: int = 1

    def sit(self, begins: Tensor) -> None:
        """Take up what a pass says on the device: the place of the newest token, then of each row's first."""
        self.position.copy_(begins[:1])
        self.pads.copy_(begins[1:])
        torch.remainder(self.position, self.room, out=self.column)
        torch.sub(self.position, self.pads[:, None], out=self.positions)
        self.grain_pads.view(-1, self.heads).copy_(self.pads[:, None].expand(-1, self.heads))

    def sit_on_host(self, begins: Tensor) -> int:
        """The same for attention on the host; returns the tokens up to the newest."""
        self.host_grain_pads.view(-1, self.heads).copy_(begins[1:, None].expand(-1, self.heads))
        return int(begins[0]) + 1


def begins_of(guests: Sequence[Guest], number: int, rows: int, room: int) -> Tensor:
    """(1 + rows,) places: of pass ``number``'s tokens, and of each row's first; an empty seat reads its own alone."""
    place = room + number % room
    found = torch.full((1 + rows,), place, dtype=torch.int64)
    for guest in guests:
        found[1 + guest.row] = place + 1 - guest.context(number)
    return found


def seat_states(placement: Placement, device: torch.device) -> list[BatchState]:
    """All micro-batches, nobody sitting."""
    states: list[BatchState] = []
    heads = placement.shape.num_kv_heads
    for batch in placement.block.batches:
        rows = batch.num_rows
        states.append(
            SeatState(
                rows=tuple(range(rows)),
                pads=torch.zeros(rows, dtype=torch.int64, device=device),
                grain_pads=torch.zeros(rows * heads, dtype=torch.int32, device=device),
                host_grain_pads=torch.zeros(rows * heads, dtype=torch.int64),
                position=torch.zeros(1, dtype=torch.int64, device=device),
                positions=torch.zeros(rows, 1, dtype=torch.int64, device=device),
                prompt_mask=None,
                stopped=torch.zeros(rows, dtype=torch.bool, device=device),
                chooser=Sampling(),  # each pass has its own
                logprobs=None,
                column=torch.zeros(1, dtype=torch.int64, device=device),
                room=batch.prompt_len,
                heads=heads,
            )
        )
    return states
