"""Rotary positions: each pair of a head's elements turns with its own frequency.

Tensor shapes: B rows, S positions, N heads, H head_dim, P = H / 2 pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flexplan.model import ModelConstants
from flexplan.model.constants import RopeScaling
from flexplan_runtime.kernels.availability import compiles_for, pays


@dataclass(frozen=True)
class Frequencies:
    """Radians a position for each of the P pairs, float32, on one device.

    ``beyond``: what longer sequences than ``limit`` turn by, where that is something else: the frequencies
    themselves (longrope), or the exponents of a base that grows with the sequence (dynamic).
    """

    usual: Tensor
    beyond: Tensor | None
    limit: int

    def to(self, device: torch.device) -> Frequencies:
        """The same on another device."""
        return Frequencies(self.usual.to(device), None if self.beyond is None else self.beyond.to(device), self.limit)


class Rotary:
    """Cosines and sines by position, computed in float32 as transformers does."""

    def __init__(self, model_math: ModelConstants, head_dim: int) -> None:
        """``head_dim``: elements of a head that turn, the first ones."""
        assert model_math.rope_theta is not None
        self._theta, self._scaling = model_math.rope_theta, model_math.rope_scaling
        self._factor = self._scaling.attention_factor if self._scaling else 1.0
        self._turns = head_dim
        self._on_device = {torch.device("cpu"): _frequencies(model_math, head_dim)}

    def turned(self, positions_BS: Tensor, *heads_BSNH: Tensor) -> list[Tensor]:
        """Each of these queries or keys turned by its position."""
        if self._turns < heads_BSNH[0].shape[-1]:
            kept = [x[..., self._turns :] for x in heads_BSNH]
            turned = self._turned(positions_BS, *(x[..., : self._turns] for x in heads_BSNH))
            return [torch.cat(both, dim=-1) for both in zip(turned, kept, strict=True)]
        return self._turned(positions_BS, *heads_BSNH)

    def _turned(self, positions_BS: Tensor, *heads_BSNH: Tensor) -> list[Tensor]:
        """The same, of heads that turn whole."""
        if pays(positions_BS.shape[1], positions_BS.numel()) and compiles_for(positions_BS):
            from flexplan_runtime.kernels.decode_step import turn_cuda

            frequencies = self._frequencies(positions_BS)
            return [turn_cuda(x, positions_BS, frequencies, self._factor) for x in heads_BSNH]
        cos, sin = self.turns(positions_BS, heads_BSNH[0].dtype)
        return [rotate(x, cos, sin) for x in heads_BSNH]

    def turns(self, positions_BS: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine (B, S, 1, H) of each position; negative positions are padding and count as 0."""
        frequencies = self._frequencies(positions_BS)
        if frequencies.dim() == 2:
            frequencies = frequencies[:, None, None]
        angles = positions_BS.clamp(min=0)[..., None, None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos(), angles.sin()
        if self._factor != 1:
            cos, sin = cos.mul_(self._factor), sin.mul_(self._factor)
        return cos.to(dtype), sin.to(dtype)

    def _frequencies(self, positions_BS: Tensor) -> Tensor:
        """(P,) of all rows, or (B, P) of each where they depend on how long its sequence is by now."""
        device = positions_BS.device
        if device not in self._on_device:  # copied once: a copy in each call would wait for the device
            self._on_device[device] = self._on_device[torch.device("cpu")].to(device)
        known = self._on_device[device]
        if known.beyond is None:
            return known.usual
        lengths_B1 = positions_BS[:, -1:] + 1  # padding is on the left: the last position is a row's newest
        beyond = known.beyond if self._is_fixed() else self._grown(lengths_B1.clamp(min=known.limit), known.beyond)
        return torch.where(lengths_B1 > known.limit, beyond, known.usual)

    def _is_fixed(self) -> bool:
        return self._scaling is not None and self._scaling.type == "longrope"

    def _grown(self, lengths_B1: Tensor, exponents_P: Tensor) -> Tensor:
        """Frequencies (B, P) of a base that grows with the sequence, beyond the original context."""
        assert self._scaling is not None
        factor, limit = self._scaling.factor, self._scaling.original_max_positions
        growth = (factor * lengths_B1 / limit - (factor - 1)) ** (self._turns / (self._turns - 2))
        return 1.0 / (self._theta * growth) ** exponents_P


def rotate(x_BSNH: Tensor, cos_BS1H: Tensor, sin_BS1H: Tensor) -> Tensor:
    """`x` turned: element h pairs with h + H / 2."""
    low, high = x_BSNH.chunk(2, dim=-1)
    return (x_BSNH * cos_BS1H).add_(torch.cat((-high, low), dim=-1).mul_(sin_BS1H))


def _frequencies(model_math: ModelConstants, head_dim: int) -> Frequencies:
    """What a model turns by."""
    assert model_math.rope_theta is not None
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float) / head_dim
    waves, scaling = model_math.rope_theta**exponents, model_math.rope_scaling
    if scaling is None:
        return Frequencies(1.0 / waves, None, 0)
    limit = scaling.original_max_positions
    if scaling.type == "dynamic":
        return Frequencies(1.0 / waves, exponents, limit)
    if scaling.type == "longrope":
        short, long = (torch.tensor(f) for f in (scaling.short_factors, scaling.long_factors))
        return Frequencies(1.0 / (short * waves), 1.0 / (long * waves), limit)
    if scaling.type == "yarn":
        return Frequencies(_yarn(waves, scaling, model_math.rope_theta, head_dim), None, 0)
    return Frequencies(
        1.0 / waves / scaling.factor if scaling.type == "linear" else _llama3(1.0 / waves, scaling), None, 0
    )


def _yarn(waves: Tensor, scaling: RopeScaling, theta: float, head_dim: int) -> Tensor:
    """Pairs that turn often in the original context are kept, those that turn seldom slowed, those between blended."""

    def pair(rotations: float) -> float:
        """Which pair turns so often over the original context, counted on from the first."""
        wavelength = scaling.original_max_positions / (rotations * 2 * math.pi)
        return head_dim * math.log(wavelength) / (2 * math.log(theta))

    low, high = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = high - low if high != low else 0.001
    slowed = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    kept = 1 - slowed
    return 1.0 / (scaling.factor * waves) * (1 - kept) + 1.0 / waves * kept


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
