"""The activation functions by their Hugging Face names; each may overwrite its argument."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

Activation = Callable[[Tensor], Tensor]


def _relu(x: Tensor) -> Tensor:
    return x.relu_()


def _silu(x: Tensor) -> Tensor:
    return F.silu(x, inplace=True)


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


_ACTIVATIONS: dict[str, Activation] = {
    "relu": _relu,
    "silu": _silu,
    "gelu": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
}


def activation(name: str) -> Activation:
    """The function `name`; `flexplan.configkeys` has refused all others."""
    return _ACTIVATIONS[name]
