"""Attention of prompts over themselves, by what a layer makes of scores.

Letters as in `attention`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flexplan.cost import window_parts
from flexplan_runtime.attention.dense import prompt_attention, prompt_mask
from flexplan_runtime.attention.scored import scored_prompt_attention
from flexplan_runtime.kernels.attention_rule import AttentionRule
from flexplan_runtime.kernels.availability import compiles_for


def attention_by_rule(
    q: Tensor, k: Tensor, v: Tensor, pads_B: Tensor, mask: Tensor | None, rule: AttentionRule, *, causal: bool = True
) -> Tensor:
    """(B, S, N x H) of queries (B, S, N, H), keys and values (B, S, K, H).

    By the ``mask`` that all layers share, (B, 1, S, S), or one of the layer's own, which knows of ``pads``; without
    either, causal.
    """
    if causal and rule.is_plain_but_scores and not rule.is_plain and compiles_for(q):
        from flexplan_runtime.kernels.prompt_attention import prompt_attention_cuda

        return prompt_attention_cuda(q, k, v, pads_B, rule)
    length = q.shape[1]
    parts = window_parts(length, rule.window, odd=not rule.is_plain) if causal else []
    if len(parts) > 1:
        return _by_parts(q, k, v, pads_B, rule, parts)
    if 0 < rule.window < length or (mask is None and not rule.is_plain):
        mask = prompt_mask(pads_B, length, causal=causal, window=rule.window)
    return _masked(q, k, v, mask, rule)


def _by_parts(
    q: Tensor, k: Tensor, v: Tensor, pads_B: Tensor, rule: AttentionRule, parts: Sequence[tuple[int, int, int]]
) -> Tensor:
    """Some positions at a time over what they reach: of a long prompt far less than all of it."""
    out = torch.empty_like(q).flatten(2)
    for first, end, lowest in parts:
        mask = prompt_mask(pads_B, end, window=rule.window, first=first, lowest=lowest)
        out[:, first:end] = _masked(q[:, first:end], k[:, lowest:end], v[:, lowest:end], mask, rule)
    return out


def _masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rule: AttentionRule) -> Tensor:
    if rule.is_plain:
        return prompt_attention(q, k, v, mask, rule.scale)
    assert mask is not None, "scores that no kernel knows are masked by themselves"
    return scored_prompt_attention(q, k, v, mask, rule)
