"""Experts on demand: the router chooses, the host is told, and what was chosen is sent."""

from __future__ import annotations

from flexplan.cost import work as cost
from flexplan.graph import Access
from flexplan.schedule.compute_work import ComputeWork
from flexplan.schedule.emitter import Accesses, Pass, Tasks, access
from flexplan.schedule.hidden import HiddenVerbs
from flexplan.schedule.weights import WeightVerbs


class ExpertVerbs(WeightVerbs, HiddenVerbs):
    """route, and what follows from it, before a layer's experts compute."""

    _work: ComputeWork

    def _load_experts(self, p: Pass, j: int, k: int) -> Tasks:
        """Nothing where all experts were sent ahead.

        Which are sent is known when the task runs, so it declares all of them; its work is what is expected.
        """
        layer, placement = self.layers[j], self.placement
        if not placement.on_demand(p.i, layer):
            return
        w, index = placement.weights[j], self._weight_index(p.number, j)
        reads, written = self._hidden_in(p, j, k)
        router = access("weights_gpu", j, w.part_bytes["gpu"]) + access("weight_ring", index, w.experts_at)
        work = self._work.of("route", layer, p.i, k, self._attended(p, layer, k))
        yield self._task("route", p, j, k, work, router + reads, written + self._routes(p, j, k))
        nbytes, end = placement.chosen_bytes(k), w.part_bytes["cpu"]
        chosen, told = access("routes", index, nbytes), access("routes_host", index, nbytes)
        yield self._task("send_routes", p, j, k, cost.down_work(nbytes), chosen, told)
        home, ring = (Access("weights_cpu", j, w.experts_at, end),), (Access("weight_ring", index, w.experts_at, end),)
        work = cost.experts_work(placement.shape, end - w.experts_at, placement.rows(k))
        yield self._task("load_experts", p, j, k, work, told + home, ring)

    def _routes(self, p: Pass, j: int, k: int) -> Accesses:
        """Which experts each token has, and behind that what they count for."""
        nbytes = self.placement.chosen_bytes(k) + self.placement.gates_bytes(k)
        return access("routes", self._weight_index(p.number, j), nbytes)
