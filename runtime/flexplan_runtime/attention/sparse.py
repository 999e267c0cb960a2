"""Sparse attention of one new position: of the old positions only those with the largest weights are read on.

Every key is read.  A grain's old positions are those from its padding up to the newest, which are not counted.  Of
``old`` of them ``max(1, int(sparsity * old))`` are kept: those whose attention weights, softmax over old and newest,
have the largest sum over the P query heads of the grain (of equal ones, any).  The newest is always kept.  The kept
weights of each head are scaled up to a sum of 1.  Only the kept values are read.

Letters as in `attention`, and R the values read of each grain.  Nothing waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flexplan.model import Packing
from flexplan.placement import values_read
from flexplan_runtime.attention.scored import attention_weights, weighted_values
from flexplan_runtime.kernels.attention_rule import AttentionRule


def sparse_attention(
    q_GPH: Tensor,
    pairs_G2TH: Tensor,
    pads_G: Tensor,
    context: int | Tensor,
    rule: AttentionRule,
    sparsity: float,
    packing: Packing | None = None,
    first_grain: int = 0,
) -> Tensor:
    """(G, P, H), over the first ``context`` tokens; with the count on the device, it and all shapes can be captured.

    With a packing, keys and values are (G, 2, T, bytes of a vector).
    """
    if isinstance(context, int):
        pairs_G2TH = pairs_G2TH[:, :, :context]
    newest = torch.as_tensor(context, device=q_GPH.device) - 1
    probs = attention_weights(q_GPH, pairs_G2TH[:, 0], pads_G, newest, rule, packing, first_grain)
    positions, shares = choose(probs, pads_G, newest, sparsity)
    return weighted_values(shares, values_at(pairs_G2TH[:, 1], positions), q_GPH, packing)


def choose(probs_GPT: Tensor, pads_G: Tensor, newest: Tensor, sparsity: float) -> tuple[Tensor, Tensor]:
    """Positions (G, R), the newest last, and weights of them (G, P, R) that sum to 1.

    Grains with fewer old positions than others have some positions with weight 0 among theirs.
    """
    tokens = probs_GPT.shape[2]
    most = values_read(sparsity, tokens - 1)
    last = (newest % tokens).expand(len(probs_GPT), 1)  # in a second lap of a ring
    ranked = probs_GPT.sum(1).scatter(1, last, -1.0).topk(most, sorted=True).indices
    old = newest - pads_G
    kept = (sparsity * old.double()).long().clamp(min=1).minimum(old)
    unread = torch.arange(most, device=ranked.device) >= kept[:, None]
    positions = torch.cat([ranked.where(~unread, last), last], 1)
    shares = probs_GPT.gather(2, positions[:, None].expand(-1, probs_GPT.shape[1], -1))
    shares[:, :, :-1].masked_fill_(unread[:, None], 0.0)
    return positions, shares / shares.sum(-1, keepdim=True)


def values_at(v_GTH: Tensor, positions_GR: Tensor) -> Tensor:
    """(G, R, H), or bytes of packed vectors: nothing else is read."""
    return v_GTH.gather(1, positions_GR[:, :, None].expand(-1, -1, v_GTH.shape[2]))
