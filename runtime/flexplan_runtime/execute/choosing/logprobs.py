"""Log-probabilities: what the model made of the tokens that were chosen, and of the likeliest, where rows ask for it.

They are those of the model's own logits, before rules, penalties, temperature and cuts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Logprob:
    """Of a chosen token, and (token, log-probability) of the likeliest ones in falling order."""

    chosen: float
    top: tuple[tuple[int, float], ...] = ()


class Logprobs:
    """Of the rows of a micro-batch that ask; ``counts`` says for how many of the likeliest tokens, None for nothing."""

    def __init__(self, counts: Sequence[int | None], device: torch.device) -> None:
        self._counts = {row: count for row, count in enumerate(counts) if count is not None}
        self._rows_R = torch.tensor(list(self._counts), device=device)
        self._most = max(self._counts.values())
        self._steps: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def note(self, logits_BV: Tensor, chosen_B: Tensor, step: int) -> None:
        """Keep, on the host, what is asked of a step."""
        scores_RV = logits_BV[self._rows_R].float().log_softmax(-1)
        chosen_R1 = chosen_B[self._rows_R, None].clamp(min=0)
        top = scores_RV.topk(min(self._most, scores_RV.shape[-1]))
        self._steps[step] = (scores_RV.gather(1, chosen_R1)[:, 0].cpu(), top.values.cpu(), top.indices.cpu())

    def take(self, step: int) -> dict[int, Logprob]:
        """Of each row that asks, by its place in the micro-batch; forgotten then."""
        chosen_R, values_RT, tokens_RT = (kept.tolist() for kept in self._steps.pop(step))
        return {
            row: Logprob(chosen_R[n], tuple(zip(tokens_RT[n][:count], values_RT[n][:count], strict=True)))
            for n, (row, count) in enumerate(self._counts.items())
        }
