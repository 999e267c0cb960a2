"""The work of compute tasks: what `cost` says of each, for equal ones once."""

from __future__ import annotations

from flexplan.cost import work as cost
from flexplan.graph import NOTHING, Work
from flexplan.model import EMBED, HEAD, MLP, Layer
from flexplan.model.layers import TRANSFORMER
from flexplan.placement import Placement
from flexplan.schedule.emitter import remembered


class ComputeWork:
    """Work by a layer's half and the lengths of a step."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self._pair_bytes = placement.cache[0][0].pair_bytes
        self._sparsity = placement.policy.attn_sparsity
        self._of_lengths = remembered(self._work, maxsize=4096)

    def of(self, half: str, layer: Layer, i: int, k: int, read: float) -> Work:
        """Work of a half of compute (project or route, merge) or all of it (compute), for token i of micro-batch k.

        A row reads ``read`` positions, in the mean.
        """
        resident = streamed = 0
        if i and layer.attends:
            segment = self.placement.segment(layer, k)
            resident, streamed = segment.grains[0], segment.streamed
        new, rows = self.placement.new_tokens(i, k), self.placement.rows(k)
        depth = layer.depth if layer.depth < self.placement.shape.dense_layers else -1  # the others are alike
        return self._of_lengths(half, layer.role, depth, rows, new, read, not i, resident, streamed)

    def _work(
        self,
        half: str,
        role: str,
        depth: int,
        rows: int,
        new: int,
        read: float,
        prompt: bool,
        resident: int,
        streamed: int,
    ) -> Work:
        """Of a layer that reads the ``read`` newest tokens."""
        s, tokens = self.placement.shape, rows * new
        if role == EMBED:
            return cost.embed_work(s, tokens)
        if role == HEAD:
            return cost.head_work(s, rows)
        if half == "route":
            return cost.route_work(s, tokens)
        if role == MLP:
            return cost.mlp_work(s, tokens, depth, routed=half == "merge")
        work = cost.mlp_work(s, tokens, depth) if role == TRANSFORMER and half != "project" else NOTHING
        if half != "project":
            work = work.plus(cost.merge_work(s, tokens))
        if half == "merge":
            chosen = streamed if self.placement.chooses else 0
            return work.plus(cost.chosen_values_work(s, chosen, read, self._pair_bytes, self._sparsity))
        work = work.plus(cost.project_work(s, tokens))
        if prompt:
            return work.plus(cost.prompt_attention_work(s, rows, new, read))
        if half == "project" and self.placement.chooses:  # keys alone
            work = work.plus(cost.gpu_attention_work(s, streamed, read, self._pair_bytes, 0.0))
        else:
            resident += streamed
        return work.plus(cost.gpu_attention_work(s, resident, read, self._pair_bytes, self._sparsity))
