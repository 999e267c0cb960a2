"""From logits to the next token: greedy, or drawn from what temperature and its kin leave, in transformers' order."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from flexplan.errors import UsageError
from flexplan.model import TokenRules

NO_TOKEN = -1  # chosen where the logits are no numbers


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose; ``seed`` and a row's place in the input fix its draws, wherever and with whomever it runs."""

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None

    @classmethod
    def of(
        cls,
        rules: TokenRules,
        do_sample: bool | None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> Sampling:
        """What was asked for, and where draws were, the model's own settings for what was not.

        None is greedy, too, but says what the model asks for.
        """
        if do_sample is None and rules.do_sample:
            settings = ", ".join(f"{key} {value}" for key, value in rules.draws.items())
            warnings.warn(
                f"the model's generation config asks for draws ({settings}); this run is greedy", stacklevel=2
            )
        own = rules if do_sample else TokenRules()
        if own.not_drawn:
            raise UsageError(
                "FP153",
                f"the model's generation config has {', '.join(own.not_drawn)}, which draws do not honour",
                fix="take it out of generation_config.json, or leave do_sample off",
            )
        if temperature is None:
            temperature = 1.0 if own.temperature is None else own.temperature
        top_k = (own.top_k or None) if top_k is None else top_k  # 0 is transformers' word for all
        top_p = own.top_p if top_p is None else top_p
        cutoffs = (own.min_p, own.typical_p, own.epsilon_cutoff, own.eta_cutoff)
        return cls(bool(do_sample), temperature, top_k, top_p, seed, *cutoffs)

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

    def choose(self, logits_BV: Tensor, rows: Sequence[int], step: int | Sequence[int]) -> Tensor:
        """The next token of each row, (B,); `NO_TOKEN` where no logit, or one that is no number, stands out.

        ``step`` counts the tokens of all rows, or of each, before this one.
        """
        best_B, likeliest_B = logits_BV.max(-1)
        broken_B = best_B - best_B != 0  # NaN and infinity less themselves are NaN; `isfinite` is more kernels
        chosen_B = self._draw(logits_BV, broken_B, rows, step) if self.do_sample else likeliest_B
        return chosen_B.masked_fill(broken_B, NO_TOKEN)

    def _draw(self, logits_BV: Tensor, broken_B: Tensor, rows: Sequence[int], step: int | Sequence[int]) -> Tensor:
        steps = [step] * len(rows) if isinstance(step, int) else step
        logits_BV = logits_BV.float().masked_fill(broken_B[:, None], 0.0)
        below_BV = logits_BV - logits_BV.amax(-1, keepdim=True)  # so that no temperature makes one infinite
        scores = self._narrow(below_BV / max(self.temperature, torch.finfo(below_BV.dtype).tiny))
        probs = torch.softmax(scores, -1).cpu()
        drawn = [torch.multinomial(probs[b], 1, generator=self._generator(row, steps[b])) for b, row in enumerate(rows)]
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
        if self.min_p is not None:
            scores_BV = _above(scores_BV, partial(_share, self.min_p))
        if self.typical_p is not None and 0 < self.typical_p < 1:
            scores_BV = _typical(scores_BV, self.typical_p)
        if self.epsilon_cutoff is not None and 0 < self.epsilon_cutoff < 1:
            scores_BV = _above(scores_BV, partial(_fixed, self.epsilon_cutoff))
        if self.eta_cutoff is not None and 0 < self.eta_cutoff < 1:
            scores_BV = _above(scores_BV, partial(_eta, self.eta_cutoff))
        return scores_BV

    def _generator(self, row: int, step: int) -> torch.Generator:
        """A generator of its own for every (seed, row, step): text never depends on which rows ran together."""
        mixed = (self.seed * 0x9E3779B97F4A7C15 + row * 0xBF58476D1CE4E5B9 + step * 0x94D049BB133111EB) % 2**63
        return torch.Generator().manual_seed(mixed)


def _above(scores_BV: Tensor, least: Callable[[Tensor], Tensor]) -> Tensor:
    """Tokens whose chance is not below ``least`` of all probs, and the likeliest."""
    probs = scores_BV.softmax(-1)
    below = (probs < least(probs)) & (scores_BV < scores_BV.amax(-1, keepdim=True))
    return scores_BV.masked_fill(below, -torch.inf)


def _entropy(probs_BV: Tensor) -> Tensor:
    return -(probs_BV * probs_BV.log()).nansum(-1, keepdim=True)


def _share(share: float, probs_BV: Tensor) -> Tensor:
    return share * probs_BV.amax(-1, keepdim=True)


def _fixed(cutoff: float, probs_BV: Tensor) -> Tensor:
    return torch.full_like(probs_BV[:, :1], cutoff)


def _eta(cutoff: float, probs_BV: Tensor) -> Tensor:
    return (cutoff**0.5 * torch.exp(-_entropy(probs_BV))).clamp(max=cutoff)


def _typical(scores_BV: Tensor, mass: float) -> Tensor:
    """Tokens as surprising as is usual here, until they make up ``mass``."""
    probs = scores_BV.softmax(-1)
    unusual, order = (-probs.log() - _entropy(probs)).abs().sort()
    last = (probs.gather(-1, order).cumsum(-1) < mass).sum(-1, keepdim=True).clamp(max=scores_BV.shape[-1] - 1)
    outside = unusual > unusual.gather(-1, last)
    outside[:, 0] = False
    return scores_BV.masked_fill(outside.scatter(1, order, outside), -torch.inf)
