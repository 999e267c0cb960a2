"""Mixtral: Llama whose feed-forward block is a few experts a token, chosen by a router.

Tensor shapes: B rows, S positions, D hidden, T = B x S tokens, X experts, A experts per token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flexplan_runtime.models.base import Weights, linear, residual
from flexplan_runtime.models.llama import Llama


class Mixtral(Llama):
    """Llama with a mixture of experts."""

    def mlp(self, w: Weights, hidden_BSD: Tensor, out: Tensor | None = None) -> Tensor:
        x_TD = self.norm(w, "mlp_norm", hidden_BSD).flatten(0, -2)
        out_TD = torch.zeros_like(x_TD)
        gates_TA, experts_TA = self._route(w, x_TD)
        # one wait for the device, for all experts: how many tokens go to each
        counts = torch.bincount(experts_TA.flatten(), minlength=self.shape.num_experts).tolist()
        slots = torch.split(experts_TA.flatten().argsort(stable=True), counts)
        for expert, slot in enumerate(slots):
            if counts[expert]:
                token = slot // self.shape.experts_per_token
                part = self.feed_forward(w, f"experts.{expert}.", x_TD[token])
                out_TD.index_add_(0, token, part.mul_(gates_TA.flatten()[slot, None]))
        return residual(out_TD.view_as(hidden_BSD), hidden_BSD, out)

    def _route(self, w: Weights, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (float32) and indices (T, A) of each token's experts; the weights sum to 1."""
        probs_TX = linear(x_TD, w["router.weight"]).float().softmax(-1)
        top_TA, experts_TA = probs_TX.topk(self.shape.experts_per_token, dim=-1)
        return top_TA / top_TA.sum(-1, keepdim=True), experts_TA
