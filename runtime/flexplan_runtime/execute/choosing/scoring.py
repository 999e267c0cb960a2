"""Scoring: what a model makes of tokens that are given, found where the head is, a few positions at a time.

Tensor shapes: B rows, S positions, D hidden, V vocabulary, T wanted tokens of a micro-batch, C of them at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

_FLOAT_BYTES = 4  # log-probabilities are found in float32


class Wanted(NamedTuple):
    """Tokens of one row, each with the position that it would follow; -1 is the prompt's last."""

    after: Sequence[int]
    tokens: Sequence[int]


class Likelihoods(NamedTuple):
    """Of the wanted tokens of a row, (T,): log-probabilities in float32, and whether no other token is likelier."""

    logprobs: Tensor
    likeliest: Tensor


@dataclass(frozen=True)
class Scoring:
    """The wanted tokens of every row of a call, and what the heads have found by now, by the row's place."""

    wanted: Sequence[Wanted]
    found: dict[int, Likelihoods] = field(default_factory=dict)

    def take(self, rows: Sequence[int], hidden_BSD: Tensor, head: Callable[[Tensor], Tensor], most: int) -> Tensor:
        """Find those of a micro-batch, the logits of at most so many positions at a time.

        Returns which rows have a log-probability that is no number, (B,).
        """
        wanted = [self.wanted[row] for row in rows]
        counts = [len(row.tokens) for row in wanted]
        at_3T = torch.tensor(
            [
                [b for b, count in enumerate(counts) for _ in range(count)],
                [hidden_BSD.shape[1] + after for row in wanted for after in row.after],
                [token for row in wanted for token in row.tokens],
            ]
        ).to(hidden_BSD.device)
        parts = [_likelihoods(head(hidden_BSD[b_C, s_C]), tokens_C) for b_C, s_C, tokens_C in at_3T.split(most, dim=1)]
        logprobs_T, likeliest_T = (torch.cat(part) for part in zip(*parts, strict=True))
        each = zip(rows, logprobs_T.split(counts), likeliest_T.split(counts), strict=True)
        self.found.update({row: Likelihoods(logprobs, likeliest) for row, logprobs, likeliest in each})
        bad_T = (~logprobs_T.isfinite()).long()
        return torch.zeros(len(rows), dtype=torch.int64, device=bad_T.device).index_add_(0, at_3T[0], bad_T) > 0


def positions_at_once(vocab_size: int, element_bytes: int, workspace_bytes: int) -> int:
    """Whose logits, and the same in float32, fit into a workspace; one does, or the head itself would not.

    >>> positions_at_once(50_272, 2, 1 << 20)
    3
    """
    return max(1, workspace_bytes // (vocab_size * (element_bytes + _FLOAT_BYTES)))


def _likelihoods(logits_CV: Tensor, tokens_C: Tensor) -> tuple[Tensor, Tensor]:
    scores_CV = logits_CV.float()
    best_C, likeliest_C = scores_CV.max(-1)
    wanted_C = scores_CV.gather(-1, tokens_C[:, None])[:, 0]
    total_C = scores_CV.sub_(best_C[:, None]).exp_().sum(-1).log()  # in its place, as it is large
    return wanted_C - best_C - total_C, likeliest_C == tokens_C
