"""What is compiled when a model is opened: the first decoding pass would otherwise wait for it."""

from __future__ import annotations

import torch

from flexplan.policy import Policy
from flexplan_runtime.attention import decode_attention, put_grains
from flexplan_runtime.kernels.availability import has_triton
from flexplan_runtime.kernels.host.build import library
from flexplan_runtime.models import Family

_FEW, _MANY = 1, 1024  # grains: the tokens of few are split among programs


def prepare_steps(family: Family, policy: Policy, dtype: torch.dtype, device: torch.device) -> None:
    """The host's attention where the policy has it, and on a device the kernels of a step."""
    if policy.cpu_cache_compute:
        library()
    if device.type == "cuda" and has_triton():
        family.warm_up(dtype, device)
        if not policy.compress_cache and family.shape.latent is None:  # that is the framework's
            _prepare_attention(family, dtype, device)


def _prepare_attention(family: Family, dtype: torch.dtype, device: torch.device) -> None:
    s = family.shape
    place = torch.zeros(1, dtype=torch.int64, device=device)  # all in the types of steps, for which it is compiled
    for grains in (_FEW, _MANY):
        pads = torch.zeros(grains, dtype=torch.int32, device=device)
        q_GPH = torch.zeros(grains, s.group_size, s.head_dim, dtype=dtype, device=device)
        pairs_G2TH = torch.zeros(grains, 2, 1, s.head_dim, dtype=dtype, device=device)
        new_B1KH = pairs_G2TH[:, 0, :, None]
        put_grains(pairs_G2TH, new_B1KH, new_B1KH, 0, place)
        sinks_GP = torch.zeros(grains, s.group_size, device=device) if s.sinks else None
        decode_attention(q_GPH, pairs_G2TH, pads, place, family.scale, sinks_GP)
