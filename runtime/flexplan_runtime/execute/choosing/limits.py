"""Probabilities that tokens are drawn by: temperature and what it leaves cut off, in transformers' order.

Tensor shapes: B rows, V vocabulary; R is 1 where all rows have one value, else B.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Settings(Protocol):
    """What is read of a row's sampling; None cuts nothing off."""

    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    epsilon_cutoff: float | None
    eta_cutoff: float | None


@dataclass(frozen=True, slots=True)
class Limits:
    """Those of some rows, (R, 1) each; None where no row has one.  A row's own change nothing for the others."""

    temperature: Tensor
    top_k: Tensor | None  # 0 keeps all
    outside: Tensor | None  # the least likely tokens that make up this much: 1 - top_p; negative keeps all
    min_p: Tensor | None
    typical_p: Tensor | None
    epsilon: Tensor | None
    eta: Tensor | None

    @classmethod
    def of(cls, rows: Sequence[Any], device: torch.device) -> Limits:
        """Those of each row's `Settings`."""

        def column(value: Callable[[Settings], float | None], otherwise: float, dtype: torch.dtype) -> Tensor | None:
            found = [value(row) for row in rows]
            if all(v is None for v in found):
                return None
            values = [otherwise if v is None else v for v in found]
            return torch.tensor(values[:1] if len(set(values)) == 1 else values, dtype=dtype, device=device)[:, None]

        real = torch.float32
        temperature = column(lambda row: _heat(row.temperature), 1.0, real)
        assert temperature is not None
        return cls(
            temperature,
            column(lambda row: row.top_k, 0, torch.int64),
            column(lambda row: None if row.top_p is None or row.top_p >= 1 else 1 - row.top_p, -1.0, real),
            column(lambda row: row.min_p, 0.0, real),
            column(lambda row: _part(row.typical_p), 2.0, real),
            column(lambda row: _part(row.epsilon_cutoff), 0.0, real),
            column(lambda row: _part(row.eta_cutoff), 0.0, real),
        )


def draw_probs(logits_BV: Tensor, limits: Limits) -> Tensor:
    """(B, V) in float32."""
    logits_BV = logits_BV.float()
    below_BV = logits_BV - logits_BV.amax(-1, keepdim=True)  # so that no temperature makes one infinite
    return _narrowed(below_BV / limits.temperature, limits).softmax(-1)


def _heat(temperature: float | None) -> float:
    """Never 0 in float32."""
    return 1.0 if temperature is None else max(temperature, torch.finfo(torch.float32).tiny)


def _part(value: float | None) -> float | None:
    """Transformers looks at those between 0 and 1 only."""
    return value if value is not None and 0 < value < 1 else None


def _narrowed(scores_BV: Tensor, limits: Limits) -> Tensor:
    if limits.top_k is not None:
        scores_BV = _likeliest(scores_BV, limits.top_k)
    if limits.outside is not None:
        ordered, order = scores_BV.sort(descending=False)
        outside = ordered.softmax(-1).cumsum(-1) <= limits.outside
        outside[:, -1] = False  # the likeliest token is always kept
        scores_BV = scores_BV.masked_fill(outside.scatter(1, order, outside), -torch.inf)
    if (min_p := limits.min_p) is not None:
        scores_BV = _above(scores_BV, lambda probs: min_p * probs.amax(-1, keepdim=True))
    if limits.typical_p is not None:
        scores_BV = _typical(scores_BV, limits.typical_p)
    if (epsilon := limits.epsilon) is not None:
        scores_BV = _above(scores_BV, lambda probs: epsilon)
    if (eta := limits.eta) is not None:
        scores_BV = _above(scores_BV, lambda probs: torch.minimum(eta.sqrt() * torch.exp(-_entropy(probs)), eta))
    return scores_BV


def _likeliest(scores_BV: Tensor, k_R1: Tensor) -> Tensor:
    """So many of each row."""
    most = min(int(k_R1.max()), scores_BV.shape[-1])
    values_Bk = scores_BV.topk(most).values
    last_B1 = (k_R1.clamp(1, most) - 1).expand(len(scores_BV), 1)
    least_B1 = values_Bk.gather(1, last_B1).masked_fill(k_R1 == 0, -torch.inf)
    return scores_BV.masked_fill(scores_BV < least_B1, -torch.inf)


def _above(scores_BV: Tensor, least: Callable[[Tensor], Tensor]) -> Tensor:
    """Tokens whose probability is not below ``least`` of all, and the likeliest."""
    probs = scores_BV.softmax(-1)
    below = (probs < least(probs)) & (scores_BV < scores_BV.amax(-1, keepdim=True))
    return scores_BV.masked_fill(below, -torch.inf)


def _entropy(probs_BV: Tensor) -> Tensor:
    return -(probs_BV * probs_BV.log()).nansum(-1, keepdim=True)


def _typical(scores_BV: Tensor, mass_R1: Tensor) -> Tensor:
    """Tokens as surprising as is usual here, until they make up ``mass``."""
    probs = scores_BV.softmax(-1)
    unusual, order = (-probs.log() - _entropy(probs)).abs().sort()
    last = (probs.gather(-1, order).cumsum(-1) < mass_R1).sum(-1, keepdim=True).clamp(max=scores_BV.shape[-1] - 1)
    outside = unusual > unusual.gather(-1, last)
    outside[:, 0] = False
    return scores_BV.masked_fill(outside.scatter(1, order, outside), -torch.inf)
