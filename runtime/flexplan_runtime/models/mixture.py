"""A decoder whose feed-forward block is a few experts a token, chosen by a router.

On CUDA all experts are two kernels where these know their gates; elsewhere they are taken one by one.

Tensor shapes: B rows, S positions, D hidden, T = B x S tokens, X experts, A experts per token, G groups of experts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flexplan.model.tensors import CORRECTION, ROUTER
from flexplan_runtime.kernels.availability import compiles_for
from flexplan_runtime.kernels.expert_rows import GROUP, SILU, UNIT, Gate, RowTable, row_table
from flexplan_runtime.models.base import Pieces, Weights, linear, whole
from flexplan_runtime.models.decoder import Decoder


class Mixture(Decoder):
    """A decoder with a mixture of experts, in all layers or after a few dense ones."""

    def prepare(self, w: dict[str, Pieces], depth: int) -> None:
        """What the router adds, and where the rows of all experts lie, if they lie as one kernel needs it."""
        if ROUTER not in w:
            return
        if self.shape.router_correction:  # float32, whatever the model's dtype is
            w[CORRECTION] = (self._corrections[depth].to(w[ROUTER][0].device),)
        by_itself = "experts.0.down.weight" not in w
        if by_itself or not self._together_fits or not compiles_for(w[ROUTER][0]):
            return
        tables = [self._row_table(w, stem) for stem in ("gate_up", "down")]
        for stem, table in zip(("gate_up", "down"), tables, strict=True):
            if None not in tables and table is not None:
                w[f"experts.{stem}.rows"] = table.tensors

    def _row_table(self, w: dict[str, Pieces], stem: str) -> RowTable | None:
        names = [f"experts.{expert}.{stem}" for expert in range(self.shape.num_experts)]
        biases = [w[f"{name}.bias"] for name in names] if self.shape.expert_bias else []
        return row_table([w[f"{name}.weight"] for name in names], biases)

    @property
    def gate(self) -> Gate | None:
        """What the kernel of all experts is told of their gates; None where it does not know them."""
        return SILU if self.math.activation == "silu" else None

    @property
    def _together_fits(self) -> bool:
        """Whether the kernel of all experts computes these."""
        return self.gate is not None

    def asks_the_host(self, cuts: Sequence[tuple[str, int]]) -> bool:
        sizes = self.shape.hidden_size, self.shape.expert_width
        even = all(size * self.shape.bytes_per_element % UNIT == 0 for size in sizes)
        return not (self._together_fits and even) or any(
            row % GROUP for name, row in cuts if name.startswith("experts.")
        )

    def feed_forward(self, w: Weights, x: Tensor) -> Tensor:
        if ROUTER not in w:
            return super().feed_forward(w, x)
        return self._through(w, x, *self.route(w, x.flatten(0, -2)))

    def routes(self, w: Weights, hidden_BSD: Tensor) -> tuple[Tensor, Tensor]:
        return self.route(w, self._before(w, "mlp_norm", hidden_BSD).flatten(0, -2))

    def experts(
        self, w: Weights, hidden_BSD: Tensor, gates_TA: Tensor, experts_TA: Tensor, out: Tensor | None = None
    ) -> Tensor:
        x_BSD = self._through(w, self._before(w, "mlp_norm", hidden_BSD), gates_TA, experts_TA)
        return self._joined(w, "mlp", x_BSD, hidden_BSD, out)

    def _through(self, w: Weights, x: Tensor, gates_TA: Tensor, experts_TA: Tensor) -> Tensor:
        """Each token through its experts, and all through the shared one."""
        x_TD = x.flatten(0, -2)
        compute = self._together if "experts.down.rows" in w else self._one_by_one
        out_TD = compute(w, x_TD, gates_TA, experts_TA)
        if self.shape.shared_ffn_size:
            out_TD = out_TD.add_(self.expert(w, "shared.", x_TD))
        return out_TD.view_as(x)

    def route(self, w: Weights, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """What each token's experts count for (float32), and which they are, (T, A)."""
        routing, count = self.math.routing, self.shape.experts_per_token
        if routing.in_float:
            logits_TX = linear(x_TD.float(), [piece.float() for piece in w[ROUTER]])
        else:
            logits_TX = linear(x_TD, w[ROUTER], w.get("router.bias")).float()
        scores_TX = logits_TX.softmax(-1) if routing.score == "softmax" else logits_TX.sigmoid()
        chosen_TX = scores_TX + whole(w[CORRECTION]).reshape(-1).float() if CORRECTION in w else scores_TX
        if routing.groups > 1:
            chosen_TX = chosen_TX.masked_fill(self._outside(chosen_TX), -torch.inf)
        experts_TA = chosen_TX.topk(count, dim=-1).indices
        gates_TA = scores_TX.gather(1, experts_TA)
        if routing.normalised:
            gates_TA = gates_TA / (gates_TA.sum(-1, keepdim=True) + (1e-20 if routing.score == "sigmoid" else 0))
        return gates_TA * routing.scale if routing.scale != 1 else gates_TA, experts_TA

    def _outside(self, chosen_TX: Tensor) -> Tensor:
        """(T, X) True for experts of groups that take no part."""
        routing = self.math.routing
        by_group = chosen_TX.unflatten(-1, (routing.groups, -1))
        best_TG = by_group.topk(routing.group_best, dim=-1).values.sum(-1).topk(routing.groups_kept, dim=-1).indices
        outside_TG = torch.ones(by_group.shape[:2], dtype=torch.bool, device=chosen_TX.device)
        return outside_TG.scatter_(1, best_TG, False)[..., None].expand_as(by_group).flatten(-2)

    def _together(self, w: Weights, x_TD: Tensor, gates_TA: Tensor, experts_TA: Tensor) -> Tensor:
        from flexplan_runtime.kernels.experts import experts_cuda

        gate_up, down = (RowTable(*w[f"experts.{stem}.rows"]) for stem in ("gate_up", "down"))
        assert self.gate is not None, "else there are no tables"
        return experts_cuda(x_TD, gates_TA, experts_TA, gate_up, down, self.gate)

    def _one_by_one(self, w: Weights, x_TD: Tensor, gates_TA: Tensor, experts_TA: Tensor) -> Tensor:
        out_TD = torch.zeros_like(x_TD)
        # one wait for the device, for all experts: how many tokens go to each
        counts = torch.bincount(experts_TA.flatten(), minlength=self.shape.num_experts).tolist()
        slots = torch.split(experts_TA.flatten().argsort(stable=True), counts)
        for expert, slot in enumerate(slots):
            if counts[expert]:
                token = slot // self.shape.experts_per_token
                part = self.expert(w, f"experts.{expert}.", x_TD[token])
                out_TD.index_add_(0, token, part.mul_(gates_TA.flatten()[slot, None]))
        return out_TD
