"""How the rows of a pass choose: each in its own way, and for its own step."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from flexplan_runtime.execute.choosing import Chooser


class Choice(NamedTuple):
    """The chooser of some rows; of each what its draws depend on, and how many tokens it has so far."""

    chooser: Chooser
    draws: list[int]
    steps: list[int]

    def of(self, logits_BV: Tensor) -> Tensor:
        """The next token of each row, (B,)."""
        return self.chooser.choose(logits_BV, self.draws, self.steps)
