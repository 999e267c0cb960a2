"""Rows that choose each in their own way: some the likeliest token, some draw, each by its own settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from flexplan_runtime.execute.choosing.limits import Limits, draw_probs
from flexplan_runtime.execute.choosing.sampling import NO_TOKEN, Sampling, Step, likeliest, step_of


class Chooser(Protocol):
    """How the rows of a micro-batch choose."""

    def choose(self, logits_BV: Tensor, rows: Sequence[int], step: Step) -> Tensor:
        """The next token of each row, (B,); ``rows`` is what draws depend on."""


def chooser_of(rows: Sequence[Sampling], device: torch.device) -> Chooser:
    """One sampling where all rows have the same."""
    return rows[0] if all(row == rows[0] for row in rows) else Mixed(rows, device)


class Mixed:
    """The samplings of a micro-batch's rows, those that draw made into tensors."""

    def __init__(self, rows: Sequence[Sampling], device: torch.device) -> None:
        self._drawing = [(b, row) for b, row in enumerate(rows) if row.do_sample]
        self._which = torch.tensor([b for b, _ in self._drawing], device=device)
        self._limits = Limits.of([row for _, row in self._drawing], device) if self._drawing else None

    def choose(self, logits_BV: Tensor, rows: Sequence[int], step: Step) -> Tensor:
        chosen_B, broken_B = likeliest(logits_BV)
        if self._limits is not None:
            drawing_BV = logits_BV[self._which].masked_fill(broken_B[self._which, None], 0.0)
            probs_BV = draw_probs(drawing_BV, self._limits).cpu()
            drawn = [row.drawn(probs_BV[n], rows[b], step_of(step, b)) for n, (b, row) in enumerate(self._drawing)]
            chosen_B[self._which] = torch.cat(drawn).to(logits_BV.device)
        return chosen_B.masked_fill(broken_B, NO_TOKEN)
