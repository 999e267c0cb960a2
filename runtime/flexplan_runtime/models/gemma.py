"""Gemma, Gemma 2 and Gemma 3: the factor of token rows is rounded to the model's dtype before it multiplies."""

from __future__ import annotations

import torch
from torch import Tensor

from flexplan_runtime.models.base import Weights
from flexplan_runtime.models.decoder import Decoder


class Gemma(Decoder):
    """A decoder with scaled token rows."""

    def embed(self, w: Weights, token_rows_BSE: Tensor, positions_BS: Tensor) -> Tensor:
        return token_rows_BSE * torch.tensor(self.math.embed_scale, dtype=token_rows_BSE.dtype)
