"""Verbs: one function a verb of the schedule, which writes its tasks with their accesses and work.

A schedule only chooses the order.  What a verb reads and writes stands here and in the files of `verbs` once, so a
schedule cannot forget an edge.  The paper's verbs: load_weight, load_cache, load_hidden, compute, store_cache,
store_hidden; ``begin`` and ``finish`` are the two halves of compute, around attention on the host or around
the values that sparse attention chose.
"""

from __future__ import annotations

from flexplan.cost import work as cost
from flexplan.graph import Access
from flexplan.model import EMBED, HEAD, MLP, Layer
from flexplan.placement import ID_BYTES, Placement
from flexplan.schedule.cache import CacheVerbs
from flexplan.schedule.compute_work import ComputeWork
from flexplan.schedule.emitter import Accesses, Pass, Tasks, access
from flexplan.schedule.experts import ExpertVerbs


class Verbs(ExpertVerbs, CacheVerbs):
    """Writes the tasks of one block, in the order in which its methods are called."""

    def __init__(self, placement: Placement) -> None:
        super().__init__(placement)
        self._work = ComputeWork(placement)

    def begins(self, p: Pass, j: int, k: int) -> bool:
        """True where the step is split in two: around attention on the host, or the values that it chooses."""
        return bool(self.placement.hosted(p.i, self.layers[j], k) or self._chosen(p, self.layers[j], k))

    def begin(self, p: Pass, j: int, k: int) -> Tasks:
        """Projections and attention over what is on the gpu; then attention over the rest on the host.

        Where the rest is streamed, its keys are on the gpu, and which values to load is what this half finds out.
        """
        layer = self.layers[j]
        turn, hosted = self._attention_turn(p, layer, k), self._hosted_bytes(p, layer, k)
        done = self.placement.rows(k) * self.placement.shape.q_size * self.placement.shape.bytes_per_element - hosted
        cached = self._home(layer.depth, k, "gpu") + self._cache_ring(p, layer, k)
        reads, written = self._hidden_in(p, j, k)
        writes = written + self._fresh(p, layer, k) + cached + access("attention", turn, done)
        writes += access("queries", turn, hosted) + self._choices(p, layer, k) + self._probs(p, layer, k)
        yield from self._unpack_weight(p, j, k)
        yield self._task(
            "project",
            p,
            j,
            k,
            self._work.of("project", layer, p.i, k, self._attended(p, layer, k)),
            self._weights(p, j) + reads + cached,
            writes,
        )
        if hosted:
            yield from self._attend_on_host(p, j, k)
        else:
            yield from self.store_cache(p, j, k)

    def _hosted_bytes(self, p: Pass, layer: Layer, k: int) -> int:
        """Queries of the grains that the host attends over; as much comes back."""
        width = self.placement.shape.group_size * self.placement.shape.head_dim * self.placement.shape.bytes_per_element
        return self.placement.hosted(p.i, layer, k) * width

    def _attend_on_host(self, p: Pass, j: int, k: int) -> Tasks:
        layer = self.layers[j]
        s, turn, placement = self.placement.segment(layer, k), self._attention_turn(p, layer, k), self.placement
        hosted = placement.hosted(p.i, layer, k)
        nbytes = self._hosted_bytes(p, layer, k)
        queries_host, out = access("queries_host", turn, nbytes), access("attention_host", turn, nbytes)
        yield self._task("send_query", p, j, k, cost.down_work(nbytes), access("queries", turn, nbytes), queries_host)
        yield from self.store_cache(p, j, k)
        homes = self._home(layer.depth, k, "cpu") if s.grains[1] > s.shared else ()
        if s.grains[2]:
            old, at = (n * s.disk_row_bytes for n in (placement.old(p.i, layer, k), placement.column(p.i, layer, k)))
            homes += access("cache_relay", turn, old) + self._cache_out(p, layer, k)
            out += (Access("cache_relay", turn, at, at + s.disk_row_bytes),)  # the new row among the old ones
        sparsity = placement.policy.attn_sparsity
        work = cost.host_attention_work(placement.shape, hosted, self._attended(p, layer, k), s.pair_bytes, sparsity)
        yield self._task("attend", p, j, k, work, queries_host + homes + self._begins_on_host(p, k), out)
        yield from self.write_cache(p, j, k)

    def _begins_on_host(self, p: Pass, k: int) -> Accesses:
        """Where each row begins, if a block does not say."""
        return ()

    def finish(self, p: Pass, j: int, k: int) -> Tasks:
        """The rest of the step, or all of it where the gpu does all the attention."""
        layer = self.layers[j]
        work = self._work.of("compute", layer, p.i, k, self._attended(p, layer, k))
        yield from self._load_experts(p, j, k)
        yield from self._unpack_weight(p, j, k)
        if layer.role == EMBED:
            yield self._task(
                "compute", p, j, k, work, self._weights(p, j) + self._embed_reads(p, k), self._hidden_out(p, j, k)
            )
        elif layer.role == HEAD:
            reads, written = self._hidden_in(p, j, k)
            ids = access("ids", k, self.placement.rows(k) * ID_BYTES)
            yield self._task("compute", p, j, k, work, self._weights(p, j) + reads, written + ids)
        elif self.placement.on_demand(p.i, layer):
            reads = self._weights(p, j) + self._hidden(p, j, k) + self._routes(p, j, k)
            work = self._work.of("merge", layer, p.i, k, self._attended(p, layer, k))
            yield self._task("compute", p, j, k, work, reads, self._hidden_out(p, j, k))
        elif layer.role == MLP:
            reads, written = self._hidden_in(p, j, k)
            yield self._task("compute", p, j, k, work, self._weights(p, j) + reads, written + self._hidden_out(p, j, k))
        elif self.begins(p, j, k):
            yield from self._merge(p, j, k)
        else:
            yield from self._attend_on_gpu(p, j, k)

    def _merge(self, p: Pass, j: int, k: int) -> Tasks:
        layer, turn = self.layers[j], self._attention_turn(p, self.layers[j], k)
        size = self.placement.rows(k) * self.placement.shape.q_size * self.placement.shape.bytes_per_element
        reads = self._weights(p, j) + self._hidden(p, j, k) + access("attention", turn, size)
        nbytes = self._hosted_bytes(p, layer, k)
        if nbytes:
            home, back = access("attention_host", turn, nbytes), (Access("attention", turn, size - nbytes, size),)
            yield self._task("load_attention", p, j, k, cost.up_work(nbytes), home, back)
        else:
            yield from self._load_values(p, j, k)
            reads += self._probs(p, layer, k) + self._values(p, layer, k)
        work = self._work.of("merge", layer, p.i, k, self._attended(p, layer, k))
        yield self._task("compute", p, j, k, work, reads, self._hidden_out(p, j, k))

    def _attend_on_gpu(self, p: Pass, j: int, k: int) -> Tasks:
        layer = self.layers[j]
        reads, written = self._hidden_in(p, j, k)
        resident = self._home(layer.depth, k, "gpu")
        ring = self._cache_ring(p, layer, k) if p.i else ()
        writes = written + self._hidden_out(p, j, k) + resident + ring + self._fresh(p, layer, k)
        reads = self._weights(p, j) + reads + ((resident + ring) if p.i else ())
        yield self._task(
            "compute", p, j, k, self._work.of("compute", layer, p.i, k, self._attended(p, layer, k)), reads, writes
        )
        yield from self.store_cache(p, j, k)
        yield from self.write_cache(p, j, k)
