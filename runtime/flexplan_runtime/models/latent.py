"""Latent attention (DeepSeek): what is kept of a token is one vector, from which every head makes its key and value.

Neither is made: a query is taken to where that vector lies, and the value of what attention found is made once for the
query.  So attention has one KV head, whose key and value are the same vector.

Tensor shapes: B rows, S positions, N heads, D hidden, R what keys and values are made of, C = R + what turns,
P plain elements of a head, V elements of its value.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flexplan.model import ModelConstants, ModelShape
from flexplan_runtime.kernels.norms import rms_norm
from flexplan_runtime.models.base import Family, Weights, whole
from flexplan_runtime.models.mixture import Mixture

_EPS = 1e-6  # of the norms within attention, whatever the config says of the others


class Latent(Mixture):
    """A mixture whose attention reads one vector a token."""

    def __init__(self, shape: ModelShape, math: ModelConstants) -> None:
        super().__init__(shape, math)
        assert shape.latent is not None
        self._latent = shape.latent

    def project(
        self, w: Weights, hidden_BSD: Tensor, positions_BS: Tensor, depth: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, S, N, C), and what is kept of each token (B, S, 1, C), as key and as value."""
        a, x_BSD = self._latent, self._before(w, "attention_norm", hidden_BSD)
        q = self._queries(w, x_BSD).unflatten(-1, (self.shape.num_heads, -1))
        plain_BSNP, q_turns = q.split([a.plain, a.turned], dim=-1)
        kept_BSR, k_turns = self.apply(w, "kv_down", x_BSD).split([a.size, a.turned], dim=-1)
        kept_BSR = _normed(w, "kv_down_norm", kept_BSR)
        q_turns, k_turns = self._turned(positions_BS, q_turns, k_turns[:, :, None])
        k_BS1C = torch.cat((kept_BSR[:, :, None], k_turns), dim=-1)
        taken_BSNR = _by_head(plain_BSNP, self._up(w)[:, : a.plain])
        return torch.cat((taken_BSNR, q_turns), dim=-1), k_BS1C, k_BS1C

    def merge(self, w: Weights, hidden_BSD: Tensor, attention_BSQ: Tensor, out: Tensor | None = None) -> Tensor:
        a = self._latent
        found_BSNR = attention_BSQ.unflatten(-1, (self.shape.num_heads, -1))[..., : a.size]
        values_BSNV = _by_head(found_BSNR, self._up(w)[:, a.plain :].transpose(1, 2))
        return super().merge(w, hidden_BSD, values_BSNV.flatten(2), out)

    def warm_up(self, dtype: torch.dtype, device: torch.device) -> None:
        Family.warm_up(self, dtype, device)

    def _queries(self, w: Weights, x_BSD: Tensor) -> Tensor:
        if not self._latent.queries:
            return self.apply(w, "q", x_BSD)
        return self.apply(w, "q_up", _normed(w, "q_down_norm", self.apply(w, "q_down", x_BSD)))

    def _up(self, w: Weights) -> Tensor:
        """(N, P + V, R): each head's rows."""
        return whole(w["kv_up.weight"]).view(self.shape.num_heads, -1, self._latent.size)

    def _turned(self, positions_BS: Tensor, *parts_BSNH: Tensor) -> list[Tensor]:
        assert self._rotary is not None
        if self.math.rope_interleaved:  # pairs as the others have them; queries and keys change places alike
            parts_BSNH = tuple(torch.cat((x[..., ::2], x[..., 1::2]), dim=-1) for x in parts_BSNH)
        return self._rotary.turned(positions_BS, *parts_BSNH)


def _normed(w: Weights, name: str, x: Tensor) -> Tensor:
    return rms_norm(x, whole(w[f"{name}.weight"]).reshape(-1), _EPS, 0.0, in_float=False)


def _by_head(x_BSNI: Tensor, matrices_NIO: Tensor) -> Tensor:
    """Each head times its own matrix, (B, S, N, O)."""
    rows, length = x_BSNI.shape[:2]
    done_NTO = torch.bmm(x_BSNI.flatten(0, 1).transpose(0, 1), matrices_NIO)
    return done_NTO.transpose(0, 1).unflatten(0, (rows, length))
