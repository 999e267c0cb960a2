"""Normalisation over the last dimension, by a kernel of ours where the framework's takes longer than a product."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from flexplan_runtime.compiler import compiles_for


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """``x`` centred and scaled to a variance of 1, then by ``weight``, and ``bias`` added."""
    if compiles_for(x) and x.is_contiguous():
        from flexplan_runtime.stepkernels import norm_cuda

        return norm_cuda(x, weight, bias, eps, centred=True)
    return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x`` by its root mean square, times ``weight``: as in transformers after rounding to the activations' dtype."""
    if compiles_for(x) and x.is_contiguous():
        from flexplan_runtime.stepkernels import norm_cuda

        return norm_cuda(x, weight, None, eps, centred=False)
    return F.rms_norm(x, x.shape[-1:], eps=eps).mul_(weight)
