"""Experts on demand: chosen by the router, then sent."""

from __future__ import annotations

from flexplan.graph import Task
from flexplan.proof.meanings.hidden import HiddenMeanings
from flexplan.proof.meanings.part import Meaning, Parts, part, require
from flexplan.proof.meanings.weights import WeightMeanings
from flexplan.proof.values import Value


class ExpertMeanings(WeightMeanings, HiddenMeanings):
    """Experts on demand: chosen by the router, then sent.

    Which of them are, no proof knows: what is sent is all that these tokens of this layer want.
    """

    def _route(self, t: Task) -> Meaning:
        self._demands(t)
        found, w = self._taken_up(t), self.placement.weights[t.j]
        router = part("weight_ring", None, 0, w.experts_at, Value("host weights", j=t.j))
        return Meaning(self._resident(t.j) + router + found.reads, found.writes + self._routes(t))

    def _send_routes(self, t: Task) -> Meaning:
        self._demands(t)
        return Meaning(self._chosen_experts("routes", t), self._chosen_experts("routes_host", t))

    def _load_experts(self, t: Task) -> Meaning:
        self._demands(t)
        lo, hi = self.placement.weights[t.j].experts_at, self.placement.weights[t.j].part_bytes["cpu"]
        home = part("weights_cpu", t.j, lo, hi, Value("host weights", j=t.j))
        ring = part("weight_ring", None, lo, hi, Value("chosen experts", t.i, t.j, t.k))
        return Meaning(self._chosen_experts("routes_host", t) + home, ring)

    def _demands(self, t: Task) -> None:
        require(self.placement.on_demand(t.i, self.layers[t.j]), "no experts wait for its router")

    def _chosen_experts(self, buffer: str, t: Task) -> Parts:
        return part(buffer, None, 0, self.placement.chosen_bytes(t.k), Value("routes", t.i, t.j, t.k))

    def _routes(self, t: Task) -> Parts:
        """Which experts each token has, and what they count for."""
        nbytes = self.placement.chosen_bytes(t.k) + self.placement.gates_bytes(t.k)
        return part("routes", None, 0, nbytes, Value("routes", t.i, t.j, t.k))
