"""OPT (all sizes; 350M is post-norm with projections) and Galactica, which is OPT with GELU.

Tensor shapes: B rows, S positions, N query heads, K kv heads, H head_dim, D hidden, E embedding, Q = N x H.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from flexplan.model import ModelConstants, ModelShape
from flexplan_runtime.kernels.norms import layer_norm
from flexplan_runtime.models.activations import activation
from flexplan_runtime.models.base import Family, Weights, residual, whole


class Opt(Family):
    """Layer norms with biases, learned positions, a two-matrix feed-forward block."""

    def __init__(self, shape: ModelShape, math: ModelConstants) -> None:
        super().__init__(shape, math)
        self._activation = activation(math.activation)

    def embed(self, w: Weights, token_rows_BSE: Tensor, positions_BS: Tensor) -> Tensor:
        rows = positions_BS.clamp(min=0) + self.shape.position_offset
        positions_BSD = F.embedding(rows, whole(w["positions.weight"]))
        if self.shape.embed_size != self.shape.hidden_size:
            token_rows_BSE = self.apply(w, "project_in", token_rows_BSE)
        return token_rows_BSE + positions_BSD

    def project(self, w: Weights, hidden_BSD: Tensor, positions_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # transformers scales q by head_dim ** -0.5 and attends with scale 1; here attention scales, for all families
        if self.shape.pre_norm:
            hidden_BSD = self.norm(w, "attention_norm", hidden_BSD)
        return self.split_heads(self.apply(w, "qkv", hidden_BSD))

    def merge(self, w: Weights, hidden_BSD: Tensor, attention_BSQ: Tensor, out: Tensor | None = None) -> Tensor:
        return self._joined(w, "attention_norm", self.apply(w, "out", attention_BSQ), hidden_BSD, out)

    def mlp(self, w: Weights, hidden_BSD: Tensor, out: Tensor | None = None) -> Tensor:
        x_BSD = self.norm(w, "mlp_norm", hidden_BSD) if self.shape.pre_norm else hidden_BSD
        x_BSD = self.apply(w, "down", self._activation(self.apply(w, "up", x_BSD)))
        return self._joined(w, "mlp_norm", x_BSD, hidden_BSD, out)

    def _joined(self, w: Weights, name: str, x_BSD: Tensor, hidden_BSD: Tensor, out: Tensor | None) -> Tensor:
        """The residual, and the norm after it where it is not before."""
        if self.shape.pre_norm:
            return residual(x_BSD, hidden_BSD, out)
        normed_BSD = self.norm(w, name, residual(x_BSD, hidden_BSD))
        return normed_BSD if out is None else out.copy_(normed_BSD)

    def norm(self, w: Weights, name: str, x: Tensor) -> Tensor:
        weight = whole(w[f"{name}.weight"]).reshape(-1) if self.shape.norm_affine else None
        bias = whole(w[f"{name}.bias"]).reshape(-1) if self.shape.norm_bias else None
        return layer_norm(x, weight, bias, self.math.norm_eps)
