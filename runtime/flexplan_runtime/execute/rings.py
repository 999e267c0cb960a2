"""What a micro-batch knows of those of its caches that are rings: of layers whose window is shorter than its rows get.

Of a prompt the last tokens are kept, from the first column on; then each new one takes the column of the oldest.
Places are counted from the first token that is kept, and over two laps at the most, as `attention.ring` takes them.
Of seats all caches are rings: a token has the column of the pass in which it is the newest, and places are counted from
a lap before the first pass, so that the newest is always in the second.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Ring:
    """Of all caches of ``room`` tokens, on the compute device but for ``host_unread``.

    The tensors stay where captured steps and the host's kernel expect them.
    """

    room: int
    left_out: int  # positions of the padded prompt that are not kept; of seats, less than none by a lap
    newest: Tensor  # (1,) place of the newest token
    column: Tensor  # (1,) where it is kept
    unread: Tensor  # (B x K,) places of each grain before those that it reads, int32
    host_unread: Tensor  # the same as of the last `slide_on_host`, int64

    @classmethod
    def of(cls, room: int, left_out: int, grain_pads: Tensor, host_grain_pads: Tensor) -> Ring:
        """``grain_pads`` as those of `BatchState`."""
        newest, column = (torch.zeros(1, dtype=torch.int64, device=grain_pads.device) for _ in range(2))  # aligned
        return cls(room, left_out, newest, column, torch.zeros_like(grain_pads), torch.zeros_like(host_grain_pads))

    def advance(self, position: Tensor, grain_pads: Tensor) -> None:
        """The newest token has this position, (1,): in the padded prompt and what follows it, or among the passes."""
        kept = position - self.left_out
        torch.remainder(kept, self.room, out=self.column)
        torch.add(self.column, (kept >= self.room) * self.room, out=self.newest)
        first = (self.newest + (1 - self.room)).clamp(min=0)
        torch.maximum(grain_pads - (position - self.newest).int(), first.int(), out=self.unread)

    def slide_on_host(self, position: int, newest: int, host_grain_pads: Tensor) -> None:
        """The same of ``host_unread``, for a newest token of this position and place."""
        torch.sub(host_grain_pads, position - newest, out=self.host_unread)
        self.host_unread.clamp_(min=max(0, newest + 1 - self.room))
