"""From logits to the next token: greedy, or drawn after temperature, top-k and top-p, as transformers orders them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flexplan.errors import UsageError


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose; ``seed`` and a row's place in the input fix its draws, wherever and with whomever it runs."""

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < torch.inf:
            raise UsageError(
                "FP150",
                f"temperature {self.temperature} must be above 0 and finite",
                fix="for greedy, leave do_sample off",
            )
        if self.top_k is not None and self.top_k < 1:
            raise UsageError("FP151", f"top_k {self.top_k} must be at least 1", fix="leave it out to keep all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError("FP152", f"top_p {self.top_p} is outside (0, 1]", fix="leave it out to keep all tokens")

    def choose(self, logits_BV: Tensor, rows: Sequence[int], step: int) -> Tensor:
        """The next token of each row, (B,)."""
        if not self.do_sample:
            return logits_BV.argmax(-1)
        scores = self._narrow(logits_BV.float() / self.temperature)
        probs = torch.softmax(scores, -1).cpu()
        drawn = [torch.multinomial(probs[b], 1, generator=self._generator(row, step)) for b, row in enumerate(rows)]
        return torch.cat(drawn).to(logits_BV.device)

    def _narrow(self, scores_BV: Tensor) -> Tensor:
        if self.top_k is not None:
            least = scores_BV.topk(min(self.top_k, scores_BV.shape[-1])).values[:, -1:]
            scores_BV = scores_BV.masked_fill(scores_BV < least, -torch.inf)
        if self.top_p is not None and self.top_p < 1:
            ordered, order = scores_BV.sort(descending=False)
            outside = ordered.softmax(-1).cumsum(-1) <= 1 - self.top_p
            outside[:, -1] = False  # the likeliest token is always kept
            scores_BV = scores_BV.masked_fill(outside.scatter(1, order, outside), -torch.inf)
        return scores_BV

    def _generator(self, row: int, step: int) -> torch.Generator:
        """A generator of its own for every (seed, row, step): text never depends on which rows ran together."""
        mixed = (self.seed * 0x9E3779B97F4A7C15 + row * 0xBF58476D1CE4E5B9 + step * 0x94D049BB133111EB) % 2**63
        return torch.Generator().manual_seed(mixed)
