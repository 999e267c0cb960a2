"""Attention with scores that the kernels do not know (caps, sinks, slopes), by the framework's own operations.

A block of scores at a time, in float32; nothing waits for the device, so that a step can be captured.  Letters as in
`attention`, L queries of a sequence.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from flexplan.model import Packing
from flexplan_runtime.kernels.attention_rule import AttentionRule
from flexplan_runtime.kernels.quantisation import unpack_vectors

BLOCK = 1 << 22  # numbers that are unpacked, or scored, at a time


def attention_weights(
    q_GPH: Tensor,
    k_GTH: Tensor,
    pads_G: Tensor,
    newest: Tensor,
    rule: AttentionRule,
    packing: Packing | None = None,
    first_grain: int = 0,
) -> Tensor:
    """(G, P, T) float32: softmax over tokens ``pads .. newest``, 0 elsewhere.

    Places may go on in a second lap of tokens: a column then holds that of this lap, or of the one before.
    """
    at, tokens = torch.arange(k_GTH.shape[1], device=q_GPH.device), k_GTH.shape[1]
    at = torch.where(at + tokens <= newest, at + tokens, at)
    unread = (at < pads_G[:, None]) | (at > newest)
    return rule.weights(_products(q_GPH, k_GTH, packing), unread[:, None], first_grain, at)


def scored_attention(
    q_GPH: Tensor,
    pairs_G2TH: Tensor,
    pads_G: Tensor,
    context: int | Tensor,
    rule: AttentionRule,
    packing: Packing | None = None,
    first_grain: int = 0,
) -> Tensor:
    """One new position of each grain over the first ``context`` tokens, (G, P, H), maybe in a second lap of them.

    Some grains at a time.  With the count on the device, it and all shapes can be captured.  With a packing, keys and
    values are (G, 2, T, bytes of a vector).
    """
    if isinstance(context, int):
        pairs_G2TH = pairs_G2TH[:, :, :context]
    newest, out = torch.as_tensor(context, device=q_GPH.device) - 1, torch.empty_like(q_GPH)
    heads, size = q_GPH.shape[1:]
    step = max(1, BLOCK // (pairs_G2TH.shape[2] * max(heads, 2 * size)))
    for first in range(0, len(q_GPH), step):
        part = slice(first, first + step)
        q, pairs = q_GPH[part], pairs_G2TH[part]
        probs = attention_weights(q, pairs[:, 0], pads_G[part], newest, rule, packing, first_grain + first)
        out[part] = weighted_values(probs, pairs[:, 1], q, packing)
    return out


def scored_prompt_attention(
    q_BSNH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor, mask_B1SS: Tensor, rule: AttentionRule
) -> Tensor:
    """A prompt over itself by the mask (True is read), (B, S, N x H); some queries of one sequence at a time.

    Or some positions of it over more of them, as the mask has it.
    """
    rows, length, heads = q_BSNH.shape[:3]
    kv_heads, out_BSNH = k_BSKH.shape[2], torch.empty_like(q_BSNH)
    step = max(1, BLOCK // (heads * k_BSKH.shape[1]))
    for row in range(rows):
        k_KHS, v_KSH = k_BSKH[row].permute(1, 2, 0), v_BSKH[row].transpose(0, 1)
        for first in range(0, length, step):
            part = slice(first, first + step)
            q_KMH = q_BSNH[row, part].unflatten(1, (kv_heads, -1)).permute(1, 2, 0, 3).flatten(1, 2)
            count = q_KMH.shape[1] * kv_heads // heads
            products = torch.bmm(q_KMH, k_KHS).float().unflatten(1, (-1, count))
            unread_LS = ~mask_B1SS[row if len(mask_B1SS) > 1 else 0, 0, part]
            probs_KPLS = _by_query(rule, products, unread_LS)
            done_KMH = torch.bmm(probs_KPLS.flatten(1, 2).to(v_KSH.dtype), v_KSH)
            out_BSNH[row, part] = done_KMH.unflatten(1, (-1, count)).permute(2, 0, 1, 3).flatten(1, 2)
    return out_BSNH.flatten(2)


def _by_query(rule: AttentionRule, products_KPLS: Tensor, unread_LS: Tensor) -> Tensor:
    """The weights of several queries a head: to `AttentionRule` a KV head is a grain, each query a head of it."""
    heads, group, queries, length = products_KPLS.shape
    slopes, sinks = (None if x is None else x.repeat_interleave(queries, 1) for x in (rule.slopes_KP, rule.sinks_KP))
    spread = replace(rule, slopes_KP=slopes, sinks_KP=sinks)
    unread = unread_LS.repeat(group, 1)[None]
    return spread.weights(products_KPLS.flatten(1, 2), unread).view(heads, group, queries, length)


def weighted_values(shares_GPR: Tensor, v_GRH: Tensor, like_GPH: Tensor, packing: Packing | None = None) -> Tensor:
    """(G, P, H) in the dtype of ``like``; values with weight 0 must be finite, too."""
    if packing is not None:
        v_GRH = unpack_vectors(v_GRH, packing, like_GPH.shape[2], like_GPH.dtype)
    if v_GRH.is_cuda:
        return torch.bmm(shares_GPR.to(v_GRH.dtype), v_GRH)
    return torch.bmm(shares_GPR, v_GRH.float()).to(like_GPH.dtype)


def _products(q_GPH: Tensor, k_GTH: Tensor, packing: Packing | None) -> Tensor:
    """(G, P, T) float32; some grains' keys are unpacked, or float32 where they must be, at a time."""
    grains, heads, size = q_GPH.shape
    found = torch.empty(grains, heads, k_GTH.shape[1], dtype=torch.float32, device=q_GPH.device)
    mixed = q_GPH.is_cuda and q_GPH.dtype != torch.float32
    step = grains if mixed and packing is None else max(1, BLOCK // (k_GTH.shape[1] * size))
    for first in range(0, grains, max(1, step)):
        part = slice(first, first + step)
        q, k = q_GPH[part], k_GTH[part]
        if packing is not None:
            k = unpack_vectors(k, packing, size, q.dtype)
        if mixed:
            found[part] = torch.bmm(q, k.transpose(1, 2), out_dtype=torch.float32)
        else:
            torch.bmm(q.float(), k.float().transpose(1, 2), out=found[part])
    return found
