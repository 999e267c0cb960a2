"""What a task of any kind needs and makes; layers put it together."""

from __future__ import annotations

from collections.abc import Callable

from flexplan.graph import KINDS, Task
from flexplan.model import EMBED, HEAD, MLP, Layer
from flexplan.placement import Placement
from flexplan.proof.meanings.attention import AttentionMeanings
from flexplan.proof.meanings.experts import ExpertMeanings
from flexplan.proof.meanings.part import Meaning, part
from flexplan.proof.meanings.tokens import TokenMeanings
from flexplan.proof.values import Value


class Meanings(TokenMeanings, ExpertMeanings, AttentionMeanings):
    """The meanings of the tasks of one placement."""

    def __init__(self, placement: Placement) -> None:
        super().__init__(placement)
        self._kinds: dict[str, Callable[[Task], Meaning]] = {kind: getattr(self, f"_{kind}") for kind in KINDS}

    def of(self, task: Task) -> Meaning:
        """The meaning of a task whose numbers are in range; raises Unmeant where it has none."""
        return self._kinds[task.kind](task)

    def _compute(self, t: Task) -> Meaning:
        layer, weights = self.layers[t.j], self._weights(t)
        if layer.role == EMBED:
            return Meaning(weights + self._embedded(t), self._handed_on(t))
        if layer.attends and self.begins(t.i, t.j, t.k):
            return self._merge(t, layer)
        if self.placement.on_demand(t.i, layer):
            return Meaning(weights + self._working(t, self._incoming(t)) + self._routes(t), self._handed_on(t))
        found = self._taken_up(t)
        if layer.role == HEAD:
            return Meaning(weights + found.reads, found.writes + self._newest(t.i, t.k))
        reads, writes = weights + found.reads, found.writes + self._handed_on(t)
        if layer.role == MLP:
            return Meaning(reads, writes)
        if t.i:
            reads += self._on_gpu(layer, t, t.i - 1) + self._ring(layer, t)
        writes += self._on_gpu(layer, t, t.i) + (self._ring(layer, t, used=True) if t.i else ())
        return Meaning(reads, writes + self._fresh(layer, t))

    def _merge(self, t: Task, layer: Layer) -> Meaning:
        """The second half of a step: what attention found, and the rest of the layer."""
        attention = Value("attention", t.i, layer.depth, t.k)
        reads = self._weights(t) + self._working(t, self._incoming(t))
        reads += part("attention", None, 0, self._attention_bytes(t), attention)
        if not self._hosted_bytes(layer, t):
            reads += self._probs(layer, t) + self._values(layer, t)
        return Meaning(reads, self._handed_on(t))
