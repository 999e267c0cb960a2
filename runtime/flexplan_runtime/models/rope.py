"""Rotary positions: each pair of a head's elements turns with its own frequency.

Tensor shapes: B rows, S positions, N heads, H head_dim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flexplan.model.constants import ModelConstants, RopeScaling
from flexplan_runtime.kernels.availability import compiles_for


class Rotary:
    """Cosines and sines by position, computed in float32 as transformers does."""

    def __init__(self, model_math: ModelConstants, head_dim: int) -> None:
        self._on_device = {torch.device("cpu"): inverse_frequencies(model_math, head_dim)}

    def _frequencies(self, device: torch.device) -> Tensor:
        if device not in self._on_device:  # copied once: a copy in each call would wait for the device
            self._on_device[device] = self._on_device[torch.device("cpu")].to(device)
        return self._on_device[device]

    def turned(self, positions_BS: Tensor, *heads_BSNH: Tensor) -> list[Tensor]:
        """Each of these queries or keys turned by its position."""
        if positions_BS.shape[1] == 1 and compiles_for(positions_BS):
            from flexplan_runtime.kernels.decode_step import turn_cuda

            return [turn_cuda(x, positions_BS, self._frequencies(x.device)) for x in heads_BSNH]
        cos, sin = self.turns(positions_BS, heads_BSNH[0].dtype)
        return [rotate(x, cos, sin) for x in heads_BSNH]

    def turns(self, positions_BS: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine (B, S, 1, H) of each position; negative positions are padding and count as 0."""
        angles = positions_BS.clamp(min=0)[..., None, None].float() * self._frequencies(positions_BS.device)
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x_BSNH: Tensor, cos_BS1H: Tensor, sin_BS1H: Tensor) -> Tensor:
    """`x` turned: element h pairs with h + H / 2."""
    low, high = x_BSNH.chunk(2, dim=-1)
    return (x_BSNH * cos_BS1H).add_(torch.cat((-high, low), dim=-1).mul_(sin_BS1H))


def inverse_frequencies(model_math: ModelConstants, head_dim: int) -> Tensor:
    """Radians a position for each of the head_dim / 2 pairs, float32."""
    assert model_math.rope_theta is not None
    inverse = 1.0 / (model_math.rope_theta ** (torch.arange(0, head_dim, 2, dtype=torch.float) / head_dim))
    scaling = model_math.rope_scaling
    if scaling is None:
        return inverse
    return inverse / scaling.factor if scaling.type == "linear" else _llama3(inverse, scaling)


def _llama3(inverse: Tensor, scaling: RopeScaling) -> Tensor:
    """Long waves are slowed by `factor`, short ones kept, those between are blended."""
    wavelengths = 2 * math.pi / inverse
    longest = scaling.original_max_positions / scaling.low_freq_factor
    shortest = scaling.original_max_positions / scaling.high_freq_factor
    slowed = torch.where(wavelengths > longest, inverse / scaling.factor, inverse)
    blend = (scaling.original_max_positions / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    blended = (1 - blend) * slowed / scaling.factor + blend * slowed
    between = ~(wavelengths < shortest) * ~(wavelengths > longest)
    return torch.where(between, blended, slowed)
