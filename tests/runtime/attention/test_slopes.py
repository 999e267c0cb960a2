"""Slopes (ALiBi) as Bloom adds them and as Falcon does: rounded, from a row's first token on, before the scale."""

from __future__ import annotations

import pytest
import torch
from flexplan_runtime.kernels.attention_rule import AttentionRule
from transformers.models.bloom.modeling_bloom import build_alibi_tensor as of_bloom
from transformers.models.falcon.modeling_falcon import build_alibi_tensor as of_falcon

from flexplan.model.families.keys.slopes import alibi_slopes

TOKENS, SCALE = 300, 0.125
MASK = torch.ones(2, TOKENS, dtype=torch.long)
MASK[1, :37] = 0


@pytest.mark.parametrize("heads", [1, 12, 16])
@pytest.mark.parametrize("rounded", [False, True])
def test_weights_are_those_of_transformers(heads: int, rounded: bool) -> None:
    torch.manual_seed(heads)
    scores = torch.randn(2, heads, TOKENS) * 8
    added = (of_falcon if rounded else of_bloom)(MASK, heads, torch.float32).view(2, heads, TOKENS)
    wanted = (scores + added) * SCALE if rounded else scores * SCALE + added
    unread = MASK[:, None] == 0
    rule = AttentionRule(SCALE, slopes_KP=torch.tensor(alibi_slopes(heads))[:, None], rounded=rounded)
    by_grain = rule.weights(scores.view(-1, 1, TOKENS).clone(), unread.repeat_interleave(heads, 0))
    torch.testing.assert_close(by_grain.view_as(scores), wanted.masked_fill(unread, -torch.inf).softmax(-1))


@pytest.mark.parametrize("rounded", [False, True])
def test_a_ring_counts_from_a_rows_first_token_wherever_that_lies(rounded: bool) -> None:
    torch.manual_seed(0)
    scores, places = torch.randn(2, 1, TOKENS) * 8, torch.arange(TOKENS)
    unread = MASK[:, None] == 0
    rule = AttentionRule(SCALE, slopes_KP=torch.tensor([[0.7]]), rounded=rounded)
    wanted = rule.weights(scores.clone(), unread, 0, places)
    found = rule.weights(scores.roll(90, -1), unread.roll(90, -1), 0, places.roll(90))
    torch.testing.assert_close(found, wanted.roll(90, -1))
