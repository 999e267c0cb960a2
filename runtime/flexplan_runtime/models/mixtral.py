"""Mixtral: Llama whose feed-forward block is a few experts a token, chosen by a router.

On CUDA all experts are two kernels; elsewhere they are taken one by one.

Tensor shapes: B rows, S positions, D hidden, T = B x S tokens, X experts, A experts per token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flexplan.model import ROUTER
from flexplan_runtime.kernels.availability import compiles_for
from flexplan_runtime.kernels.expert_rows import GROUP, UNIT, RowTable, row_table
from flexplan_runtime.models.base import Pieces, Weights, linear, residual
from flexplan_runtime.models.decoder import Decoder


class Mixtral(Decoder):
    """Llama with a mixture of experts."""

    def prepare(self, w: dict[str, Pieces]) -> None:
        """Where the rows of all experts lie, for one kernel; where they do not lie as it needs, there is no table."""
        if ROUTER not in w or self.math.activation != "silu" or not compiles_for(w[ROUTER][0]):
            return
        names = ([f"experts.{e}.{stem}.weight" for e in range(self.shape.num_experts)] for stem in ("gate_up", "down"))
        tables = [row_table([w[name] for name in each]) for each in names]
        for stem, table in zip(("gate_up", "down"), tables, strict=True):
            if None not in tables and table is not None:
                w[f"experts.{stem}.rows"] = tuple(table)

    def asks_the_host(self, cuts: Sequence[tuple[str, int]]) -> bool:
        sizes = self.shape.hidden_size, self.shape.ffn_size
        even = all(size * self.shape.bytes_per_element % UNIT == 0 for size in sizes)
        together = self.math.activation == "silu" and even
        return not together or any(row % GROUP for name, row in cuts if name.startswith("experts."))

    def mlp(self, w: Weights, hidden_BSD: Tensor, out: Tensor | None = None) -> Tensor:
        x_TD = self.norm(w, "mlp_norm", hidden_BSD).flatten(0, -2)
        gates_TA, experts_TA = self._route(w, x_TD)
        compute = self._together if "experts.down.rows" in w else self._one_by_one
        return residual(compute(w, x_TD, gates_TA, experts_TA).view_as(hidden_BSD), hidden_BSD, out)

    def _together(self, w: Weights, x_TD: Tensor, gates_TA: Tensor, experts_TA: Tensor) -> Tensor:
        from flexplan_runtime.kernels.experts import experts_cuda

        gate_up, down = (RowTable(*w[f"experts.{stem}.rows"]) for stem in ("gate_up", "down"))
        return experts_cuda(x_TD, gates_TA, experts_TA, gate_up, down)

    def _one_by_one(self, w: Weights, x_TD: Tensor, gates_TA: Tensor, experts_TA: Tensor) -> Tensor:
        out_TD = torch.zeros_like(x_TD)
        # one wait for the device, for all experts: how many tokens go to each
        counts = torch.bincount(experts_TA.flatten(), minlength=self.shape.num_experts).tolist()
        slots = torch.split(experts_TA.flatten().argsort(stable=True), counts)
        for expert, slot in enumerate(slots):
            if counts[expert]:
                token = slot // self.shape.experts_per_token
                part = self.feed_forward(w, f"experts.{expert}.", x_TD[token])
                out_TD.index_add_(0, token, part.mul_(gates_TA.flatten()[slot, None]))
        return out_TD

    def _route(self, w: Weights, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (float32) and indices (T, A) of each token's experts; the weights sum to 1."""
        probs_TX = linear(x_TD, w["router.weight"]).float().softmax(-1)
        top_TA, experts_TA = probs_TX.topk(self.shape.experts_per_token, dim=-1)
        return top_TA / top_TA.sum(-1, keepdim=True), experts_TA
