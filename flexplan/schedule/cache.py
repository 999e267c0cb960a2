"""Keys and values, and what attention that chooses among them leaves for its second half."""

from __future__ import annotations

from flexplan.cost import work as cost
from flexplan.graph import Access
from flexplan.model import Layer
from flexplan.placement import ID_BYTES, PROB_BYTES, Placement
from flexplan.schedule.emitter import Accesses, Emitter, Pass, Tasks, access, remembered


class CacheVerbs(Emitter):
    """load_cache, store_cache and write_cache, and what the layers read and write of them."""

    def __init__(self, placement: Placement) -> None:
        super().__init__(placement)
        self._home = remembered(self._home_of)  # what does not depend on the pass is written once

    def _attention_turn(self, p: Pass, layer: Layer, k: int) -> int:
        return self._turn(p, layer.depth, self.placement.shape.num_layers, k)

    def _home_of(self, depth: int, k: int, tier: str) -> Accesses:
        """All bytes on a tier of the cache of a transformer layer and micro-batch."""
        index, segment = self.placement.cache_index(depth, k), self.placement.cache[depth][k]
        return access(f"cache_{tier}", index, segment.resident_bytes(tier))

    def load_cache(self, p: Pass, j: int, k: int) -> Tasks:
        """Old keys and values to where attention reads them: from disk to the host, on to the gpu if it attends.

        Where it attends sparsely, keys alone: see `load_values`.
        """
        layer = self.layers[j]
        if not p.i or not layer.attends:
            return
        s, old = self.placement.segment(layer, k), self.placement.old(p.i, layer, k)
        turn = self._attention_turn(p, layer, k)
        relay: Accesses = ()
        if s.grains[2]:
            nbytes = old * s.disk_row_bytes
            home = (Access("cache_disk", self.placement.cache_index(layer.depth, k), 0, nbytes),)
            relay = access("cache_relay", turn, nbytes)
            yield self._task("read_cache", p, j, k, cost.read_work(nbytes), home, relay)
        if s.streamed:
            cpu, disk = s.streamed_by_tier
            reads = access("cache_cpu", self.placement.cache_index(layer.depth, k), cpu * s.capacity * s.pair_bytes)
            reads += relay if disk else ()
            work = cost.up_work(s.streamed * old * s.vector_bytes * self.placement.streamed_parts)
            yield self._task("load_cache", p, j, k, work, reads, self._cache_ring(p, layer, k))

    def _cache_ring(self, p: Pass, layer: Layer, k: int) -> Accesses:
        s = self.placement.segment(layer, k)
        size = s.streamed * s.capacity * s.vector_bytes * self.placement.streamed_parts
        return access("cache_ring", self._attention_turn(p, layer, k), size)

    def _load_values(self, p: Pass, j: int, k: int) -> Tasks:
        """The values chosen among the old ones, read by the gpu itself where they live: nothing else moves."""
        layer = self.layers[j]
        nbytes = self._chosen(p, layer, k) * self.placement.segment(layer, k).vector_bytes
        reads = self._choices(p, layer, k) + self._home(layer.depth, k, "cpu")
        yield self._task("load_values", p, j, k, cost.up_work(nbytes), reads, self._values(p, layer, k))

    def _chosen(self, p: Pass, layer: Layer, k: int) -> int:
        """Old values of all streamed grains that come to the gpu apart from their keys."""
        if not self.placement.chooses or not layer.attends:
            return 0
        segment = self.placement.segment(layer, k)
        return segment.streamed * self.placement.chosen(p.i, segment)

    def _choices(self, p: Pass, layer: Layer, k: int) -> Accesses:
        """Which of them."""
        return access("choices", self._attention_turn(p, layer, k), self._chosen(p, layer, k) * ID_BYTES)

    def _probs(self, p: Pass, layer: Layer, k: int) -> Accesses:
        """Their weights in each query head."""
        nbytes = self._chosen(p, layer, k) * self.placement.shape.group_size * PROB_BYTES
        return access("probs", self._attention_turn(p, layer, k), nbytes)

    def _values(self, p: Pass, layer: Layer, k: int) -> Accesses:
        nbytes = self._chosen(p, layer, k) * self.placement.segment(layer, k).vector_bytes
        return access("values", self._attention_turn(p, layer, k), nbytes)

    def _fresh(self, p: Pass, layer: Layer, k: int) -> Accesses:
        """New keys and values of the grains that are not at home on the gpu."""
        s = self.placement.segment(layer, k)
        nbytes = s.off_gpu * self.placement.kept(p.i, layer, k) * s.pair_bytes
        return access("fresh", self._attention_turn(p, layer, k), nbytes)

    def _cache_out(self, p: Pass, layer: Layer, k: int) -> Accesses:
        s = self.placement.segment(layer, k)
        rows = self.placement.kept(p.i, layer, k) * s.disk_row_bytes
        return access("cache_out", self._attention_turn(p, layer, k), rows)

    def store_cache(self, p: Pass, j: int, k: int) -> Tasks:
        """New keys and values to their home; not after the last token, which nobody will attend to."""
        layer = self.layers[j]
        if not layer.attends or not self._keeps_cache(p, k):
            return
        s, new = self.placement.segment(layer, k), self.placement.kept(p.i, layer, k)
        if not s.off_gpu:
            return
        out = self._cache_out(p, layer, k)
        writes = self._home(layer.depth, k, "cpu") + out
        work = cost.down_work(s.off_gpu * new * s.pair_bytes)
        yield self._task("store_cache", p, j, k, work, self._fresh(p, layer, k), writes)

    def write_cache(self, p: Pass, j: int, k: int) -> Tasks:
        """The same on to disk, where the next step will read it; never where no next step follows."""
        layer = self.layers[j]
        if not layer.attends or p.i == self.placement.block.gen_len - 1:
            return
        s, new = self.placement.segment(layer, k), self.placement.kept(p.i, layer, k)
        if s.grains[2]:
            at, row = self.placement.column(p.i, layer, k), s.disk_row_bytes
            writes = (Access("cache_disk", self.placement.cache_index(layer.depth, k), at * row, (at + new) * row),)
            yield self._task("write_cache", p, j, k, cost.write_work(new * row), self._cache_out(p, layer, k), writes)

    def _keeps_cache(self, p: Pass, k: int) -> bool:
        """The last token's keys and values are only needed by host attention, in that same step."""
        return p.i < self.placement.block.gen_len - 1 or (self.placement.policy.cpu_cache_compute and p.i > 0)
