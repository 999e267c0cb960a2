"""The activation functions by their Hugging Face names; all of them overwrite their argument."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Callable[[Tensor], Tensor]


def _relu(x: Tensor) -> Tensor:
    return x.relu_()


def _silu(x: Tensor) -> Tensor:
    return F.silu(x, inplace=True)


def _gelu(x: Tensor) -> Tensor:
    return torch.ops.aten.gelu_(x)


def _gelu_tanh(x: Tensor) -> Tensor:
    return torch.ops.aten.gelu_(x, approximate="tanh")


_ACTIVATIONS: dict[str, Activation] = {
    "relu": _relu,
    "silu": _silu,
    "gelu": _gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
}


def activation(name: str) -> Activation:
    """The function `name`; `flexplan.model.families.keys.fields` has refused all others."""
    return _ACTIVATIONS[name]
