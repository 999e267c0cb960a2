"""Steps: one function a verb of the schedule, which writes its tasks with their accesses and work.

A schedule only chooses the order.  What a verb reads and writes stands here once, so a schedule cannot
forget an edge.  The paper's verbs: load_weight, load_cache, load_hidden, compute, store_cache,
store_hidden; ``begin`` and ``finish`` are the two halves of compute, around attention on the host or around
the values that sparse attention chose.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache

from flexplan import cost
from flexplan.graph import INLINE, KINDS, NOTHING, Access, Task, Work
from flexplan.layers import TRANSFORMER, Layer
from flexplan.placement import CHANCE_BYTES, ID_BYTES, Placement
from flexplan.tensors import EMBED, HEAD, MLP
from flexplan.units import round_up
from flexplan.weight_placement import DISK_ALIGN, PIECE_ALIGN

Tasks = Iterator[Task]
Accesses = tuple[Access, ...]


class Pass:
    """One pass over the layers: the ``number``-th of the graph, token ``i`` of the micro-batches ``ks`` in order."""

    __slots__ = ("_place", "i", "ks", "number")

    def __init__(self, number: int, i: int, ks: tuple[int, ...]) -> None:
        self.number = number
        self.i = i
        self.ks = ks
        self._place = {k: place for place, k in enumerate(ks)}

    def turn(self, group: int, k: int) -> int:
        """A running count within the pass, over (group, micro-batch)."""
        return group * len(self.ks) + self._place[k]


def _access(buffer: str, index: int, size: int) -> Accesses:
    return (Access(buffer, index, 0, size),) if size else ()


class Steps:
    """Writes the tasks of one block, in the order in which its methods are called."""

    def __init__(self, placement: Placement) -> None:
        self.p = placement
        self.layers = placement.layers
        self._lanes = {kind: KINDS[kind].lane if placement.policy.overlap else INLINE for kind in KINDS}
        self._work = lru_cache(maxsize=4096)(self._compute_work)
        self._opened: dict[int, int] = {}  # the index that each slot of the open weights holds
        self._turns = cache(placement.turns)
        self._num_batches = len(placement.block.batches)
        self._sparsity = placement.policy.attn_sparsity
        self._pair_bytes = placement.cache[0][0].pair_bytes
        self._hidden_bytes = cache(placement.hidden_bytes)  # of i = 0 and 1: all decoding steps are alike
        self._hidden_parts = cache(placement.hidden_parts)
        self._home = cache(self._home_of)  # what does not depend on the pass is written once
        self._weights = lru_cache(maxsize=256)(self._weights_of)  # all micro-batches of a layer read the same

    def _task(
        self, kind: str, p: Pass, j: int, k: int, work: Work, reads: Accesses, writes: Accesses, part: int = 0
    ) -> Task:
        return Task(kind, self._lanes[kind], p.i, j, k, part, work, reads, writes)

    def _turn(self, p: Pass, group: int, groups: int, k: int) -> int:
        """The index of what a ring holds for one of ``groups`` turns that micro-batch k has in a pass.

        No two are equal; those of a later pass meet the same slots, so that its steps find their bytes where they were.
        """
        return p.number * self._turns(groups * self._num_batches) + p.turn(group, k)

    # -- weights -----------------------------------------------------------------------------------------------
    def load_weight(self, p: Pass, number: int, j: int, k: int, chunk: int, chunks: int) -> Tasks:
        """Chunk ``chunk`` of ``chunks`` of layer j's streamed weights, for pass ``number``, while p computes k."""
        w = self.p.weights[j]
        index = self._weight_index(number, j)
        cpu, disk = w.part_bytes["cpu"], w.part_bytes["disk"]
        part = 2 if number == 0 and j < self.p.preloaded else 0  # the first pass also loads these for the second
        lo, hi = _chunk(cpu, chunk, chunks, PIECE_ALIGN)
        if lo < hi:
            yield from self._load_cpu_weight(p, index, j, k, lo, hi, part)
        lo, hi = _chunk(disk, chunk, chunks, DISK_ALIGN)
        if lo < hi:
            relay = (Access("weight_relay", index, lo, hi),)
            home = (Access("weights_disk", j, lo, hi),)
            ring = (Access("weight_ring", index, cpu + lo, cpu + hi),)
            yield self._task("read_weight", p, j, k, cost.read_work(hi - lo), home, relay, part)
            yield self._task("load_weight", p, j, k, cost.up_work(hi - lo), relay, ring, part + 1)

    def _load_cpu_weight(self, p: Pass, index: int, j: int, k: int, lo: int, hi: int, part: int) -> Tasks:
        home = (Access("weights_cpu", j, lo, hi),)
        if not self.p.policy.pin_weight:
            stage = (Access("weight_stage", index, lo, hi),)
            yield self._task("stage_weight", p, j, k, cost.copy_work(hi - lo), home, stage, part)
            home = stage
        ring = (Access("weight_ring", index, lo, hi),)
        yield self._task("load_weight", p, j, k, cost.up_work(hi - lo), home, ring, part)

    def _weights_of(self, p: Pass, j: int) -> Accesses:
        """What a compute task of layer j reads: the open weights, or the resident part and the slot of the ring."""
        opened = self.p.weights[j].open_bytes
        if opened:
            return _access("weights_open", self._weight_index(p.number, j), opened)
        return self._stored_weights(p, j)

    def _weight_index(self, number: int, j: int) -> int:
        return number * self._turns(len(self.layers)) + j

    def _stored_weights(self, p: Pass, j: int) -> Accesses:
        """Layer j's weights as they are stored: its resident part and its slot of the ring."""
        w = self.p.weights[j]
        resident = _access("weights_gpu", j, w.part_bytes["gpu"])
        return resident + _access("weight_ring", self._weight_index(p.number, j), w.blob_bytes)

    def _open_weight(self, p: Pass, j: int, k: int) -> Tasks:
        """Packed weights are unpacked once a pass, before the first micro-batch that computes with them."""
        w, index = self.p.weights[j], self._weight_index(p.number, j)
        slot = index % self.p.open_slots
        if not w.open_bytes or self._opened.get(slot) == index:
            return
        self._opened[slot] = index
        work = cost.open_work(w.part_bytes["gpu"] + w.blob_bytes, w.open_bytes)
        writes = _access("weights_open", index, w.open_bytes)
        yield self._task("open_weight", p, j, k, work, self._stored_weights(p, j), writes)

    # -- token ids and the rows of the token table ---------------------------------------------------------------
    def load_ids(self, p: Pass, k: int) -> Tasks:
        """The prompt's ids to the gpu, and the rows of the token table that are not there."""
        tokens = self.p.rows(k) * self.p.new_tokens(p.i, k)
        ids = self._ids_on_host(p, k)
        if p.i == 0:
            nbytes = tokens * ID_BYTES
            yield self._task("load_ids", p, 0, k, cost.up_work(nbytes), ids, _access("ids", k, nbytes))
        if self.p.gathers:
            nbytes = tokens * self.p.shape.embed_size * self.p.shape.bytes_per_element
            table, turn = self.p.table, self._turn(p, 0, 1, k)
            homes = _access("weights_cpu", table.j, table.part_bytes["cpu"])
            homes += _access("weights_disk", table.j, table.part_bytes["disk"])
            rows_host = _access("rows_host", turn, nbytes)
            yield self._task("gather", p, 0, k, cost.copy_work(nbytes), ids + homes, rows_host)
            yield self._task("load_rows", p, 0, k, cost.up_work(nbytes), rows_host, _access("rows", turn, nbytes))

    def _ids_on_host(self, p: Pass, k: int) -> Accesses:
        row_bytes = self.p.rows(k) * ID_BYTES
        if p.i == 0:
            return (Access("ids_host", k, 0, row_bytes * self.p.new_tokens(0, k)),)
        return (Access("outputs", k, (p.i - 1) * row_bytes, p.i * row_bytes),)

    def store_ids(self, p: Pass, k: int) -> Tasks:
        """The new token of every row to the host."""
        nbytes = self.p.rows(k) * ID_BYTES
        writes = (Access("outputs", k, p.i * nbytes, (p.i + 1) * nbytes),)
        yield self._task(
            "store_ids", p, len(self.layers) - 1, k, cost.down_work(nbytes), _access("ids", k, nbytes), writes
        )

    # -- hidden states -------------------------------------------------------------------------------------------
    def _hidden(self, p: Pass, j: int, k: int, lo: int = 0, hi: int | None = None) -> Accesses:
        """The working slot of (j, k), or its bytes lo .. hi; where activations stay on the gpu it is their home."""
        index = k if self.p.hidden_stays else self._turn(p, j, len(self.layers), k)
        end = self._hidden_bytes(min(p.i, 1), k) if hi is None else hi
        return (Access("hidden_decode" if p.i else "hidden_prefill", index, lo, end),)

    def load_hidden(self, p: Pass, j: int, k: int) -> Tasks:
        """Hidden states that are not at home on the gpu, into the working slot of (j, k)."""
        gpu, cpu, disk = self._hidden_parts(min(p.i, 1), k)
        if self.p.hidden_stays or not cpu + disk:
            return
        reads = _access("hidden_cpu", k, cpu)
        if disk:
            padded = round_up(disk, DISK_ALIGN)
            relay = _access("hidden_relay", 2 * self._turn(p, j, len(self.layers), k), padded)
            yield self._task("read_hidden", p, j, k, cost.read_work(padded), _access("hidden_disk", k, padded), relay)
            reads += relay
        yield self._task("load_hidden", p, j, k, cost.up_work(cpu + disk), reads, self._hidden(p, j, k, gpu))

    def store_hidden(self, p: Pass, j: int, k: int) -> Tasks:
        """What (j, k) computed, to where the next layer will fetch it from."""
        gpu, cpu, disk = self._hidden_parts(min(p.i, 1), k)
        if self.p.hidden_stays or not cpu + disk or j == len(self.layers) - 1:
            return
        padded = round_up(disk, DISK_ALIGN)
        relay = _access("hidden_relay", 2 * self._turn(p, j, len(self.layers), k) + 1, padded)
        work, writes = cost.down_work(cpu + disk), _access("hidden_cpu", k, cpu) + relay
        yield self._task("store_hidden", p, j, k, work, self._hidden(p, j, k, gpu), writes)
        if disk:
            yield self._task("write_hidden", p, j, k, cost.write_work(padded), relay, _access("hidden_disk", k, padded))

    # -- keys and values -------------------------------------------------------------------------------------------
    def _attention_turn(self, p: Pass, layer: Layer, k: int) -> int:
        return self._turn(p, layer.depth, self.p.shape.num_layers, k)

    def _home_of(self, depth: int, k: int, tier: str) -> Accesses:
        """All bytes on a tier of the cache of a transformer layer and micro-batch."""
        return _access(f"cache_{tier}", self.p.cache_index(depth, k), self.p.cache[depth][k].resident_bytes(tier))

    def load_cache(self, p: Pass, j: int, k: int) -> Tasks:
        """Old keys and values to where attention reads them: from disk to the host, on to the gpu if it attends.

        Where it attends sparsely, keys alone: see `load_values`.
        """
        layer = self.layers[j]
        if not p.i or not layer.attends:
            return
        s, old = self.p.segment(layer, k), self.p.context(p.i, k) - 1
        turn = self._attention_turn(p, layer, k)
        relay: Accesses = ()
        if s.grains[2]:
            nbytes = old * s.disk_row_bytes
            home = (Access("cache_disk", self.p.cache_index(layer.depth, k), 0, nbytes),)
            relay = _access("cache_relay", turn, nbytes)
            yield self._task("read_cache", p, j, k, cost.read_work(nbytes), home, relay)
        if s.streamed:
            cpu, disk = s.streamed_by_tier
            reads = _access("cache_cpu", self.p.cache_index(layer.depth, k), cpu * s.capacity * s.pair_bytes)
            reads += relay if disk else ()
            work = cost.up_work(s.streamed * old * s.vector_bytes * self.p.streamed_parts)
            yield self._task("load_cache", p, j, k, work, reads, self._cache_ring(p, layer, k))

    def _cache_ring(self, p: Pass, layer: Layer, k: int) -> Accesses:
        s = self.p.segment(layer, k)
        size = s.streamed * s.capacity * s.vector_bytes * self.p.streamed_parts
        return _access("cache_ring", self._attention_turn(p, layer, k), size)

    def _load_values(self, p: Pass, j: int, k: int) -> Tasks:
        """The values chosen among the old ones, read by the gpu itself where they live: nothing else moves."""
        layer = self.layers[j]
        nbytes = self._chosen(p, layer, k) * self.p.segment(layer, k).vector_bytes
        reads = self._choices(p, layer, k) + self._home(layer.depth, k, "cpu")
        yield self._task("load_values", p, j, k, cost.up_work(nbytes), reads, self._values(p, layer, k))

    def _chosen(self, p: Pass, layer: Layer, k: int) -> int:
        """Old values of all streamed grains that come to the gpu apart from their keys."""
        if not self.p.chooses or not layer.attends:
            return 0
        return self.p.segment(layer, k).streamed * self.p.chosen(p.i, k)

    def _choices(self, p: Pass, layer: Layer, k: int) -> Accesses:
        """Which of them."""
        return _access("choices", self._attention_turn(p, layer, k), self._chosen(p, layer, k) * ID_BYTES)

    def _chances(self, p: Pass, layer: Layer, k: int) -> Accesses:
        """Their weights in each query head."""
        nbytes = self._chosen(p, layer, k) * self.p.shape.group_size * CHANCE_BYTES
        return _access("chances", self._attention_turn(p, layer, k), nbytes)

    def _values(self, p: Pass, layer: Layer, k: int) -> Accesses:
        nbytes = self._chosen(p, layer, k) * self.p.segment(layer, k).vector_bytes
        return _access("values", self._attention_turn(p, layer, k), nbytes)

    def _fresh(self, p: Pass, layer: Layer, k: int) -> Accesses:
        """New keys and values of the grains that are not at home on the gpu."""
        s = self.p.segment(layer, k)
        nbytes = s.off_gpu * self.p.new_tokens(p.i, k) * s.pair_bytes
        return _access("fresh", self._attention_turn(p, layer, k), nbytes)

    def _cache_out(self, p: Pass, layer: Layer, k: int) -> Accesses:
        s = self.p.segment(layer, k)
        rows = self.p.new_tokens(p.i, k) * s.disk_row_bytes
        return _access("cache_out", self._attention_turn(p, layer, k), rows)

    def store_cache(self, p: Pass, j: int, k: int) -> Tasks:
        """New keys and values to their home; not after the last token, which nobody will attend to."""
        layer = self.layers[j]
        if not layer.attends or not self._keeps_cache(p, k):
            return
        s, new = self.p.segment(layer, k), self.p.new_tokens(p.i, k)
        if not s.off_gpu:
            return
        out = self._cache_out(p, layer, k)
        writes = self._home(layer.depth, k, "cpu") + out
        work = cost.down_work(s.off_gpu * new * s.pair_bytes)
        yield self._task("store_cache", p, j, k, work, self._fresh(p, layer, k), writes)

    def write_cache(self, p: Pass, j: int, k: int) -> Tasks:
        """The same on to disk, where the next step will read it; never where no next step follows."""
        layer = self.layers[j]
        if not layer.attends or p.i == self.p.block.gen_len - 1:
            return
        s, new = self.p.segment(layer, k), self.p.new_tokens(p.i, k)
        if s.grains[2]:
            old, row = self.p.context(p.i, k) - new, s.disk_row_bytes
            writes = (Access("cache_disk", self.p.cache_index(layer.depth, k), old * row, (old + new) * row),)
            yield self._task("write_cache", p, j, k, cost.write_work(new * row), self._cache_out(p, layer, k), writes)

    def _keeps_cache(self, p: Pass, k: int) -> bool:
        """The last token's keys and values are only needed by host attention, in that same step."""
        return p.i < self.p.block.gen_len - 1 or (self.p.policy.cpu_cache_compute and p.i > 0)

    # -- compute -----------------------------------------------------------------------------------------------
    def begins(self, p: Pass, j: int, k: int) -> bool:
        """True where the step is split in two: around attention on the host, or the values that it chooses."""
        return bool(self.p.hosted(p.i, self.layers[j], k) or self._chosen(p, self.layers[j], k))

    def begin(self, p: Pass, j: int, k: int) -> Tasks:
        """Projections and attention over what is on the gpu; then attention over the rest on the host.

        Where the rest is streamed, its keys are on the gpu, and which values to load is what this half finds out.
        """
        layer = self.layers[j]
        turn, hosted = self._attention_turn(p, layer, k), self._hosted_bytes(p, layer, k)
        done = self.p.rows(k) * self.p.shape.q_size * self.p.shape.bytes_per_element - hosted
        cached = self._home(layer.depth, k, "gpu") + self._cache_ring(p, layer, k)
        reads, written = self._hidden_in(p, j, k)
        writes = written + self._fresh(p, layer, k) + cached + _access("attention", turn, done)
        writes += _access("queries", turn, hosted) + self._choices(p, layer, k) + self._chances(p, layer, k)
        yield from self._open_weight(p, j, k)
        yield self._task(
            "project", p, j, k, self._gpu_work("project", p, layer, k), self._weights(p, j) + reads + cached, writes
        )
        if hosted:
            yield from self._attend_on_host(p, j, k)
        else:
            yield from self.store_cache(p, j, k)

    def _hosted_bytes(self, p: Pass, layer: Layer, k: int) -> int:
        """Queries of the grains that the host attends over; as much comes back."""
        width = self.p.shape.group_size * self.p.shape.head_dim * self.p.shape.bytes_per_element
        return self.p.hosted(p.i, layer, k) * width

    def _attend_on_host(self, p: Pass, j: int, k: int) -> Tasks:
        layer = self.layers[j]
        s, turn, hosted = self.p.segment(layer, k), self._attention_turn(p, layer, k), self.p.hosted(p.i, layer, k)
        nbytes = self._hosted_bytes(p, layer, k)
        queries_host, out = _access("queries_host", turn, nbytes), _access("attention_host", turn, nbytes)
        yield self._task("send_query", p, j, k, cost.down_work(nbytes), _access("queries", turn, nbytes), queries_host)
        yield from self.store_cache(p, j, k)
        homes = self._home(layer.depth, k, "cpu") if s.grains[1] > s.shared else ()
        if s.grains[2]:
            old = (self.p.context(p.i, k) - 1) * s.disk_row_bytes
            homes += _access("cache_relay", turn, old) + self._cache_out(p, layer, k)
            out += (Access("cache_relay", turn, old, old + s.disk_row_bytes),)  # the new row beside the old ones
        work = cost.host_attention_work(self.p.shape, hosted, self.p.context(p.i, k), s.pair_bytes, self._sparsity)
        yield self._task("attend", p, j, k, work, queries_host + homes, out)
        yield from self.write_cache(p, j, k)

    def finish(self, p: Pass, j: int, k: int) -> Tasks:
        """The rest of the step, or all of it where the gpu does all the attention."""
        layer = self.layers[j]
        work = self._gpu_work("compute", p, layer, k)
        yield from self._open_weight(p, j, k)
        if layer.role == EMBED:
            yield self._task(
                "compute", p, j, k, work, self._weights(p, j) + self._embed_reads(p, k), self._hidden_out(p, j, k)
            )
        elif layer.role == HEAD:
            reads, written = self._hidden_in(p, j, k)
            ids = _access("ids", k, self.p.rows(k) * ID_BYTES)
            yield self._task("compute", p, j, k, work, self._weights(p, j) + reads, written + ids)
        elif layer.role == MLP:
            reads, written = self._hidden_in(p, j, k)
            yield self._task("compute", p, j, k, work, self._weights(p, j) + reads, written + self._hidden_out(p, j, k))
        elif self.begins(p, j, k):
            yield from self._merge(p, j, k)
        else:
            yield from self._attend_on_gpu(p, j, k)

    def _merge(self, p: Pass, j: int, k: int) -> Tasks:
        layer, turn = self.layers[j], self._attention_turn(p, self.layers[j], k)
        size = self.p.rows(k) * self.p.shape.q_size * self.p.shape.bytes_per_element
        reads = self._weights(p, j) + self._hidden(p, j, k) + _access("attention", turn, size)
        nbytes = self._hosted_bytes(p, layer, k)
        if nbytes:
            home, back = _access("attention_host", turn, nbytes), (Access("attention", turn, size - nbytes, size),)
            yield self._task("load_attention", p, j, k, cost.up_work(nbytes), home, back)
        else:
            yield from self._load_values(p, j, k)
            reads += self._chances(p, layer, k) + self._values(p, layer, k)
        work = self._gpu_work("merge", p, layer, k)
        yield self._task("compute", p, j, k, work, reads, self._hidden_out(p, j, k))

    def _attend_on_gpu(self, p: Pass, j: int, k: int) -> Tasks:
        layer = self.layers[j]
        reads, written = self._hidden_in(p, j, k)
        resident = self._home(layer.depth, k, "gpu")
        ring = self._cache_ring(p, layer, k) if p.i else ()
        writes = written + self._hidden_out(p, j, k) + resident + ring + self._fresh(p, layer, k)
        reads = self._weights(p, j) + reads + ((resident + ring) if p.i else ())
        yield self._task("compute", p, j, k, self._gpu_work("compute", p, layer, k), reads, writes)
        yield from self.store_cache(p, j, k)
        yield from self.write_cache(p, j, k)

    def _embed_reads(self, p: Pass, k: int) -> Accesses:
        tokens = self.p.rows(k) * self.p.new_tokens(p.i, k)
        reads = _access("ids", k, tokens * ID_BYTES)
        if self.p.table.j != 0:
            reads += _access("weights_gpu", self.p.table.j, self.p.table.part_bytes["gpu"])
        if self.p.gathers:
            nbytes = tokens * self.p.shape.embed_size * self.p.shape.bytes_per_element
            reads += _access("rows", self._turn(p, 0, 1, k), nbytes)
        return reads

    def _hidden_in(self, p: Pass, j: int, k: int) -> tuple[Accesses, Accesses]:
        """(reads, writes) of taking up the hidden states: their part on the gpu is copied into the working slot."""
        gpu, cpu, disk = self._hidden_parts(min(p.i, 1), k)
        if self.p.hidden_stays:
            return self._hidden(p, j, k), ()
        loaded = self._hidden(p, j, k, gpu) if cpu + disk else ()
        return loaded + _access("hidden_gpu", k, gpu), self._hidden(p, j, k, 0, gpu) if gpu else ()

    def _hidden_out(self, p: Pass, j: int, k: int) -> Accesses:
        """The working slot, and the part of it that is at home on the gpu."""
        if self.p.hidden_stays:
            return self._hidden(p, j, k)
        return self._hidden(p, j, k) + _access("hidden_gpu", k, self._hidden_parts(min(p.i, 1), k)[0])

    def _gpu_work(self, half: str, p: Pass, layer: Layer, k: int) -> Work:
        """Work of a half of compute; equal layers share it."""
        resident = streamed = 0
        if p.i and layer.attends:
            segment = self.p.segment(layer, k)
            resident, streamed = segment.grains[0], segment.streamed
        new, context = self.p.new_tokens(p.i, k), self.p.context(p.i, k)
        return self._work(half, layer.role, self.p.rows(k), new, context, resident, streamed)

    def _compute_work(
        self, half: str, role: str, rows: int, new: int, context: int, resident: int, streamed: int
    ) -> Work:
        s, tokens = self.p.shape, rows * new
        if role == EMBED:
            return cost.embed_work(s, tokens)
        if role == HEAD:
            return cost.head_work(s, rows)
        if role == MLP:
            return cost.mlp_work(s, tokens)
        work = cost.mlp_work(s, tokens) if role == TRANSFORMER and half != "project" else NOTHING
        if half != "project":
            work = work.plus(cost.merge_work(s, tokens))
        if half == "merge":
            chosen = streamed if self.p.chooses else 0
            return work.plus(cost.chosen_values_work(s, chosen, context, self._pair_bytes, self._sparsity))
        work = work.plus(cost.project_work(s, tokens))
        if new == context:
            return work.plus(cost.prompt_attention_work(s, rows, new))
        if half == "project" and self.p.chooses:  # keys alone
            work = work.plus(cost.gpu_attention_work(s, streamed, context, self._pair_bytes, 0.0))
        else:
            resident += streamed
        return work.plus(cost.gpu_attention_work(s, resident, context, self._pair_bytes, self._sparsity))


def _chunk(nbytes: int, chunk: int, chunks: int, align: int) -> tuple[int, int]:
    """Bytes of chunk ``chunk`` of ``chunks`` nearly equal, aligned chunks."""
    units = -(-nbytes // align)
    lo, hi = units * chunk // chunks * align, units * (chunk + 1) // chunks * align
    return min(lo, nbytes), min(hi, nbytes)
