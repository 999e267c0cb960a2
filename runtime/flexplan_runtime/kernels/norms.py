"""Normalisation over the last dimension, by a kernel of ours where the framework's takes longer than a product."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from flexplan_runtime.kernels.availability import compiles_for, pays


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """``x`` centred and scaled to a variance of 1, then by ``weight``, and ``bias`` added."""
    if x.shape[-2] == 1 and x.is_contiguous() and compiles_for(x):  # of a prompt the framework's is as fast
        from flexplan_runtime.kernels.decode_step import norm_cuda

        return norm_cuda(x, weight, bias, eps, centred=True)
    return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float, shift: float = 0.0, *, in_float: bool = False) -> Tensor:
    """``x`` by its root mean square, times ``weight + shift``.

    As in transformers after rounding to the activations' dtype, or with ``in_float`` before.
    """
    if x.is_contiguous() and pays(x.shape[-2], x.numel() // x.shape[-1]) and compiles_for(x):
        from flexplan_runtime.kernels.decode_step import norm_cuda

        return norm_cuda(x, weight, None, eps, centred=False, shift=shift, in_float=in_float)
    if in_float:
        normed = F.rms_norm(x.float(), x.shape[-1:], eps=eps)
        return normed.mul_(weight.float() + shift).to(x.dtype)
    return F.rms_norm(x, x.shape[-1:], eps=eps).mul_(weight)
