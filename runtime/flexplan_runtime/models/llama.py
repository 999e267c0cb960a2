"""The Llama family: Llama, Mistral, SmolLM, Qwen2 (query, key and value biases), Qwen3 (query and key norms).

Tensor shapes: B rows, S positions, N query heads, K kv heads, H head_dim, D hidden, F feed-forward, Q = N x H.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flexplan.model import ModelConstants, ModelShape
from flexplan_runtime.kernels.availability import compiles_for, pays
from flexplan_runtime.kernels.norms import rms_norm
from flexplan_runtime.models.activations import activation
from flexplan_runtime.models.base import Family, Weights, residual, whole
from flexplan_runtime.models.rope import Rotary


class Llama(Family):
    """Root-mean-square norms, rotary positions, a gated feed-forward block."""

    def __init__(self, shape: ModelShape, math: ModelConstants) -> None:
        super().__init__(shape, math)
        self._activation = activation(math.activation)
        self._rotary = Rotary(math, shape.head_dim)

    def embed(self, w: Weights, token_rows_BSE: Tensor, positions_BS: Tensor) -> Tensor:
        return token_rows_BSE

    def project(self, w: Weights, hidden_BSD: Tensor, positions_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.split_heads(self.apply(w, "qkv", self.norm(w, "attention_norm", hidden_BSD)))
        if self.shape.qk_norm:
            q, k = self.norm(w, "q_norm", q), self.norm(w, "k_norm", k)
        q, k = self._rotary.turned(positions_BS, q, k)
        return q, k, v

    def merge(self, w: Weights, hidden_BSD: Tensor, attention_BSQ: Tensor, out: Tensor | None = None) -> Tensor:
        return residual(self.apply(w, "out", attention_BSQ), hidden_BSD, out)

    def mlp(self, w: Weights, hidden_BSD: Tensor, out: Tensor | None = None) -> Tensor:
        return residual(self.feed_forward(w, "", self.norm(w, "mlp_norm", hidden_BSD)), hidden_BSD, out)

    def feed_forward(self, w: Weights, prefix: str, x: Tensor) -> Tensor:
        """The gated block of the tensors that start with `prefix`, over the last dimension."""
        return self.apply(w, f"{prefix}down", self._gated(self.apply(w, f"{prefix}gate_up", x)))

    def _gated(self, gate_up: Tensor) -> Tensor:
        """(..., 2F) to (..., F), over the first half."""
        tokens = gate_up.numel() // gate_up.shape[-1]
        if self.math.activation == "silu" and pays(gate_up.shape[-2], tokens) and compiles_for(gate_up):
            from flexplan_runtime.kernels.decode_step import gate_cuda

            return gate_cuda(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return self._activation(gate).mul_(up)

    def norm(self, w: Weights, name: str, x: Tensor) -> Tensor:
        return rms_norm(x, whole(w[f"{name}.weight"]).reshape(-1), self.math.norm_eps)

    def warm_up(self, dtype: torch.dtype, device: torch.device) -> None:
        super().warm_up(dtype, device)
        heads_BSNH = torch.zeros(1, 1, self.shape.num_heads, self.shape.head_dim, dtype=dtype, device=device)
        self._rotary.turned(torch.zeros(1, 1, dtype=torch.int64, device=device), heads_BSNH)
        self._gated(torch.zeros(1, 1, 2 * self.shape.ffn_size, dtype=dtype, device=device))
