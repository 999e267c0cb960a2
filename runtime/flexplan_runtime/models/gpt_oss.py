"""gpt-oss: gates and what they let through alternate, end at a limit, and nothing is let through as it is."""

from __future__ import annotations

import torch
from torch import Tensor

from flexplan_runtime.kernels.expert_rows import Gate
from flexplan_runtime.models.mixture import Mixture


class GptOss(Mixture):
    """A mixture with gates of its own."""

    @property
    def gate(self) -> Gate:
        return Gate(self.math.swiglu_alpha, self.math.swiglu_limit or 0.0)

    def gated(self, gate_up: Tensor) -> Tensor:
        gate, up, limit = gate_up[..., ::2], gate_up[..., 1::2], self.math.swiglu_limit
        gate, up = gate.clamp(max=limit), up.clamp(min=-limit, max=limit) if limit is not None else up
        return torch.sigmoid(gate * self.math.swiglu_alpha).mul_(gate).mul_(up + 1)
