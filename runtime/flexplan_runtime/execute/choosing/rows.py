"""Rows: each an answer that is asked for, with its prompt and all that it asks for by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from flexplan.model import Ids, TokenRules
from flexplan_runtime.execute.choosing.penalties import Given, Penalties
from flexplan_runtime.execute.choosing.sampling import Sampling

Ends = Callable[[Sequence[int]], bool]  # new tokens so far -> is the answer over with them?


@dataclass(frozen=True, slots=True)
class Row:
    """One answer: ``most`` new tokens, fewer where a stop id comes or ``ends`` says so.

    ``draw`` is what its draws depend on beside the seed and the position.  ``logprobs``: how many of the likeliest
    tokens are told of at each position beside the one that was chosen; None tells of none.
    """

    given: Given
    prompt: Sequence[int]
    most: int
    sampling: Sampling
    rules: TokenRules
    stop_ids: frozenset[int]
    draw: int
    logprobs: int | None = None
    ends: Ends | None = None
    rule_ends: Ids = ()  # what rules call the end


def penalties_of(rows: Sequence[Row], vocab_size: int, device: torch.device) -> Penalties:
    """What the rules of these rows are to their logits."""
    rules, given, most = [row.rules for row in rows], [row.given for row in rows], [row.most for row in rows]
    return Penalties(rules, rows[0].rule_ends, given, most, vocab_size, device)
