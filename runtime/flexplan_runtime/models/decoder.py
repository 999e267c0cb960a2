"""The decoder that the families share: norms, positions, attention's projections, a feed-forward block, residuals.

Which of the pieces a model has is said by its `ModelShape`, with which constants by its `ModelConstants`; a family that
needs another piece overrides one method.

Tensor shapes: B rows, S positions, N query heads, K kv heads, H head_dim, D hidden, E embedding, F feed-forward,
Q = N x H.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flexplan.model import ModelConstants, ModelShape
from flexplan_runtime.kernels.availability import compiles_for, pays
from flexplan_runtime.kernels.norms import layer_norm, rms_norm
from flexplan_runtime.models.activations import activation
from flexplan_runtime.models.base import Family, Weights, residual, whole
from flexplan_runtime.models.rope import Rotary


class Decoder(Family):
    """Two blocks a layer, attention and feed-forward, each added to what it is given."""

    def __init__(self, shape: ModelShape, math: ModelConstants) -> None:
        super().__init__(shape, math)
        self._activation = activation(math.activation)
        self._rotary = self._local = None
        if shape.positions == "rotary":
            self._rotary = Rotary(math, math.rotary_dim or shape.head_dim)
            self._local = self._rotary
        if math.rope_local_theta is not None:
            local = math.model_copy(update={"rope_theta": math.rope_local_theta, "rope_scaling": None})
            self._local = Rotary(local, math.rotary_dim or shape.head_dim)

    def embed(self, w: Weights, token_rows_BSE: Tensor, positions_BS: Tensor) -> Tensor:
        if self.shape.embed_size != self.shape.hidden_size:
            token_rows_BSE = self.apply(w, "project_in", token_rows_BSE)
        if self.math.embed_scale != 1:
            token_rows_BSE = token_rows_BSE * self.math.embed_scale
        if self.shape.positions == "learned":
            # padding has none yet, and a row that has ended may be carried on beside others beyond the last
            rows = positions_BS.clamp(0, self.shape.max_positions - 1) + self.shape.position_offset
            token_rows_BSE = token_rows_BSE + F.embedding(rows, whole(w["positions.weight"]))
        return self.norm(w, "embed_norm", token_rows_BSE) if self.shape.embed_norm else token_rows_BSE

    def project(
        self, w: Weights, hidden_BSD: Tensor, positions_BS: Tensor, depth: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        qkv_BS = self.apply(w, "qkv", self._before(w, "attention_norm", hidden_BSD))
        if self.shape.qk_norm_whole:
            q, k, v = self.split_heads(self._normed_whole(w, qkv_BS))
        else:
            q, k, v = self.split_heads(qkv_BS)
            if self.shape.qk_norm:
                q, k = self.norm(w, "q_norm", q), self.norm(w, "k_norm", k)
        rotary = self._local if self.shape.window(depth) else self._rotary
        if rotary is not None:
            q, k = rotary.turned(positions_BS, q, k)
        return q, k, v

    def merge(self, w: Weights, hidden_BSD: Tensor, attention_BSQ: Tensor, out: Tensor | None = None) -> Tensor:
        return self._joined(w, "attention", self.apply(w, "out", attention_BSQ), hidden_BSD, out)

    def mlp(self, w: Weights, hidden_BSD: Tensor, out: Tensor | None = None) -> Tensor:
        x_BSD = self.feed_forward(w, self._before(w, "mlp_norm", hidden_BSD))
        return self._joined(w, "mlp", x_BSD, hidden_BSD, out)

    def both(self, w: Weights, hidden_BSD: Tensor, attention_BSQ: Tensor, out: Tensor | None = None) -> Tensor:
        norm = "attention_norm" if self.shape.shared_norm else "mlp_norm"
        x_BSD = self.feed_forward(w, self.norm(w, norm, hidden_BSD)).add_(self.apply(w, "out", attention_BSQ))
        return residual(x_BSD, hidden_BSD, out)

    def feed_forward(self, w: Weights, x: Tensor) -> Tensor:
        """What the feed-forward block adds, over the last dimension."""
        return self.expert(w, "", x)

    def expert(self, w: Weights, prefix: str, x: Tensor) -> Tensor:
        """The two or three matrices of the tensors that start with `prefix`, over the last dimension."""
        if not self.shape.gated:
            return self.apply(w, f"{prefix}down", self._activation(self.apply(w, f"{prefix}up", x)))
        return self.apply(w, f"{prefix}down", self.gated(self.apply(w, f"{prefix}gate_up", x)))

    def gated(self, gate_up: Tensor) -> Tensor:
        """(..., 2F) to (..., F), over the first half."""
        tokens = gate_up.numel() // gate_up.shape[-1]
        if self.math.activation == "silu" and pays(gate_up.shape[-2], tokens) and compiles_for(gate_up):
            from flexplan_runtime.kernels.decode_step import gate_cuda

            return gate_cuda(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return self._activation(gate).mul_(up)

    def head(self, w: Weights, hidden_BD: Tensor) -> Tensor:
        logits_BV = super().head(w, hidden_BD)
        if self.math.logits_scale != 1:
            logits_BV = logits_BV.mul_(self.math.logits_scale)
        if self.math.logits_softcap is not None:
            logits_BV = logits_BV.div_(self.math.logits_softcap).tanh_().mul_(self.math.logits_softcap)
        return logits_BV

    def norm(self, w: Weights, name: str, x: Tensor) -> Tensor:
        weight = whole(w[f"{name}.weight"]).reshape(-1) if self.shape.norm_affine else None
        if self.shape.norm == "layer":
            bias = whole(w[f"{name}.bias"]).reshape(-1) if self.shape.norm_bias else None
            return layer_norm(x, weight, bias, self.math.norm_eps)
        assert weight is not None, "root-mean-square norms have weights"
        return rms_norm(x, weight, self.math.norm_eps, self.math.norm_shift, in_float=self.math.norm_in_float)

    def warm_up(self, dtype: torch.dtype, device: torch.device) -> None:
        super().warm_up(dtype, device)
        heads_BSNH = torch.zeros(1, 1, self.shape.num_heads, self.shape.head_dim, dtype=dtype, device=device)
        if self._rotary is not None:
            self._rotary.turned(torch.zeros(1, 1, dtype=torch.int64, device=device), heads_BSNH)
        if self.shape.gated and not self.shape.num_experts:
            self.gated(torch.zeros(1, 1, 2 * self.shape.ffn_size, dtype=dtype, device=device))

    def _normed_whole(self, w: Weights, qkv_BS: Tensor) -> Tensor:
        """All heads of the queries normed together, and those of the keys."""
        s = self.shape
        q, k, v = qkv_BS.split([s.q_size, s.kv_size, s.kv_size], dim=-1)
        return torch.cat((self.norm(w, "q_norm", q), self.norm(w, "k_norm", k), v), dim=-1)

    def _before(self, w: Weights, name: str, hidden_BSD: Tensor) -> Tensor:
        return self.norm(w, name, hidden_BSD) if self.shape.pre_norm else hidden_BSD

    def _joined(self, w: Weights, block: str, x_BSD: Tensor, hidden_BSD: Tensor, out: Tensor | None) -> Tensor:
        """What a block adds, and the norms that are over it or over the sum."""
        if self.shape.added_norm:
            x_BSD = self.norm(w, f"{block}_added_norm", x_BSD)
        if self.math.residual_scale != 1:
            x_BSD = x_BSD.mul_(self.math.residual_scale)
        if self.shape.pre_norm or self.shape.added_norm:
            return residual(x_BSD, hidden_BSD, out)
        normed_BSD = self.norm(w, f"{block}_norm", residual(x_BSD, hidden_BSD))
        return normed_BSD if out is None else out.copy_(normed_BSD)
