"""How the rows of a pass choose: each in its own way, and for its own step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flexplan_runtime.execute.choosing import Chooser, Logprobs, Penalties


@dataclass(frozen=True, slots=True)
class Choice:
    """The chooser of some rows; of each what its draws depend on, how many tokens it has so far, and its rules."""

    chooser: Chooser
    draws: list[int]
    steps: list[int]
    penalties: Sequence[Penalties | None]  # each of one row, whose history it keeps from pass to pass
    logprobs: Logprobs | None  # of the rows that ask

    def of(self, logits_BV: Tensor) -> Tensor:
        """The next token of each row, (B,)."""
        ruled = [(b, rules) for b, rules in enumerate(self.penalties) if rules is not None]
        chosen_B = self.chooser.choose(self._ruled(logits_BV, ruled), self.draws, self.steps)
        for b, rules in ruled:
            rules.note(chosen_B[b : b + 1], self.steps[b])
        if self.logprobs is not None:
            self.logprobs.note(logits_BV, chosen_B, 0)
        return chosen_B

    def _ruled(self, logits_BV: Tensor, ruled: Sequence[tuple[int, Penalties]]) -> Tensor:
        """The logits as the rules of some rows change them."""
        if not ruled:
            return logits_BV
        scores_BV = logits_BV.to(torch.float32, copy=True)
        for b, rules in ruled:
            scores_BV[b : b + 1] = rules(logits_BV[b : b + 1], self.steps[b])
        return scores_BV
