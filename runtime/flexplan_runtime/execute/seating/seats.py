"""What a micro-batch of seats knows of its rows: in which pass each began, had its prompt come token by token.

All that is counted of seats is counted in passes: the newest token's position is the number of its pass, and a row's
first token is as many passes before as there are tokens between.  Where they are in a cache its `Ring` says.
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
from flexplan_runtime.execute.rings import Ring


@dataclass
class SeatState(BatchState):
    """A micro-batch of seats; ``pads`` and ``position`` are counted in passes."""

    heads: int = 1

    def sit(self, begins: Tensor) -> None:
        """Take up what a pass says on the device: its number, then where each row begins."""
        self.position.copy_(begins[:1])
        self.pads.copy_(begins[1:])
        torch.sub(self.position, self.pads[:, None], out=self.positions)
        self.grain_pads.view(-1, self.heads).copy_(self.pads[:, None].expand(-1, self.heads))
        for ring in self.rings.values():
            ring.advance(self.position, self.grain_pads)

    def sit_on_host(self, begins: Tensor) -> None:
        """The same for attention on the host."""
        self.host_grain_pads.view(-1, self.heads).copy_(begins[1:, None].expand(-1, self.heads))


def begins_of(guests: Sequence[Guest], number: int, rows: int) -> Tensor:
    """(1 + rows,): the number of the pass, and where each row begins; an empty seat reads its own token alone."""
    found = torch.full((1 + rows,), number, dtype=torch.int64)
    for guest in guests:
        found[1 + guest.row] = number + 1 - guest.context(number)
    return found


def seat_states(placement: Placement, device: torch.device) -> list[BatchState]:
    """All micro-batches, nobody sitting."""
    states: list[BatchState] = []
    heads = placement.shape.num_kv_heads
    for k, batch in enumerate(placement.block.batches):
        rows = batch.num_rows
        grain_pads = torch.zeros(rows * heads, dtype=torch.int32, device=device)
        host_grain_pads = torch.zeros(rows * heads, dtype=torch.int64)
        states.append(
            SeatState(
                rows=tuple(range(rows)),
                pads=torch.zeros(rows, dtype=torch.int64, device=device),
                grain_pads=grain_pads,
                host_grain_pads=host_grain_pads,
                position=torch.zeros(1, dtype=torch.int64, device=device),
                positions=torch.zeros(rows, 1, dtype=torch.int64, device=device),
                prompt_mask=None,
                stopped=torch.zeros(rows, dtype=torch.bool, device=device),
                chooser=Sampling(),  # each pass has its own
                logprobs=None,
                rings={room: Ring.of(room, -room, grain_pads, host_grain_pads) for room in placement.rings(k)},
                heads=heads,
            )
        )
    return states
