"""Attention over grains: one query group and one KV head of one sequence at a time, wherever the keys live.

Letters: G grains (sequence x KV head), P query heads that share a KV head, T tokens, H head_dim;
B rows, S positions, N query heads, K KV heads.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from flexplan_runtime.hostattention import grain_attention_host
from flexplan_runtime.hostattention.build import library

_WITHOUT_PLANS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def prompt_attention(q_BSNH: Tensor, k_BSKH: Tensor, v_BSKH: Tensor, mask_B1SS: Tensor | None, scale: float) -> Tensor:
    """Causal attention of a prompt over itself, (B, S, N x H); ``mask`` (True is read) where rows are padded."""
    q, k, v = (x.transpose(1, 2) for x in (q_BSNH, k_BSKH, v_BSKH))
    grouped = q.shape[1] != k.shape[1]
    # cuDNN's plans are kept by thread, and a job's threads are new: making one takes as long as several layers
    with nullcontext() if grouped and mask_B1SS is not None else sdpa_kernel(_WITHOUT_PLANS):
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask_B1SS, is_causal=mask_B1SS is None, scale=scale, enable_gqa=grouped
        )
    return out.transpose(1, 2).flatten(2)


def decode_attention(q_GPH: Tensor, pairs_G2TH: Tensor, pads_G: Tensor, position: Tensor, scale: float) -> Tensor:
    """One new position of each grain over tokens ``pads .. position`` of its keys and values, (G, P, H)."""
    if q_GPH.is_cuda and has_triton():
        from flexplan_runtime.decodekernel import decode_attention_cuda  # triton is only there with CUDA

        return decode_attention_cuda(q_GPH, pairs_G2TH[:, 0], pairs_G2TH[:, 1], pads_G, position, scale)
    context = int(position) + 1
    return grain_attention(q_GPH, pairs_G2TH[:, 0, :context], pairs_G2TH[:, 1, :context], pads_G, scale)


def host_attention(
    q_GPH: Tensor, pairs_G2TH: Tensor, pads_G: Tensor, scale: float, out_GPH: Tensor, threads: int
) -> None:
    """The same on the host over all tokens given, into ``out``: by the compiled kernel where there is one."""
    k, v = pairs_G2TH[:, 0], pairs_G2TH[:, 1]
    if not grain_attention_host(q_GPH, k, v, pads_G, scale, out_GPH, threads):
        out_GPH.copy_(grain_attention(q_GPH, k, v, pads_G, scale))


def prepare_host_attention() -> None:
    """Compile the host's kernel now, rather than in the middle of the first step."""
    library()


def prepare_decode_attention(heads: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
    """The same for the kernel of a device, which reads a cache that is not packed; ``heads`` share one of its own."""
    q = torch.zeros(1, heads, head_dim, dtype=dtype, device=device)
    pairs = torch.zeros(1, 2, 16, head_dim, dtype=dtype, device=device)
    pads = torch.zeros(1, dtype=torch.int32, device=device)  # the types that steps have, for which it is compiled
    decode_attention(q, pairs, pads, pads.to(torch.int64), 1.0)


def grain_attention(q_GPH: Tensor, k_GTH: Tensor, v_GTH: Tensor, pads_G: Tensor | None, scale: float) -> Tensor:
    """By the framework's kernel, (G, P, H).

    The query heads of a group stand on the sequence axis, so keys and values are read once for all of them.
    """
    mask = None
    if pads_G is not None and bool(pads_G.any()):
        mask = (torch.arange(k_GTH.shape[1], device=pads_G.device) >= pads_G[:, None])[:, None, None, :]
    q, k, v = q_GPH[:, None], k_GTH[:, None], v_GTH[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)[:, 0]


def prompt_mask(pads_B: Tensor, length: int) -> Tensor:
    """(B, 1, S, S), True where position s may read position t: not later, and not padding.

    A padded position reads itself, so that it stays finite; nobody reads it.
    """
    position = torch.arange(length, device=pads_B.device)
    causal = position[None, :] <= position[:, None]
    real = position[None, :] >= pads_B[:, None]
    itself = torch.eye(length, dtype=torch.bool, device=pads_B.device)
    return ((causal[None] & real[:, None, :]) | itself[None])[:, None]


@cache
def has_triton() -> bool:
    """Is the compiler of the CUDA kernels installed?"""
    return find_spec("triton") is not None
