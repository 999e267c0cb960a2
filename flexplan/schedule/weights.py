"""Weights: to the gpu by chunks, unpacked there once a pass."""

from __future__ import annotations

from flexplan.cost import work as cost
from flexplan.graph import Access
from flexplan.placement import DISK_ALIGN, PIECE_ALIGN, Placement
from flexplan.schedule.emitter import Accesses, Emitter, Pass, Tasks, access, remembered


class WeightVerbs(Emitter):
    """load_weight, and what a compute task reads of a layer."""

    def __init__(self, placement: Placement) -> None:
        super().__init__(placement)
        self._unpacked: dict[int, int] = {}  # the index that each slot of unpacked weights holds
        self._weights = remembered(self._weights_of, maxsize=256)  # all micro-batches of a layer read the same

    def load_weight(self, p: Pass, number: int, j: int, k: int, chunk: int, chunks: int) -> Tasks:
        """Chunk ``chunk`` of ``chunks`` of layer j's streamed weights, for pass ``number``, while p computes k.

        Experts on demand are not among them; with these a block is one micro-batch, and its n-th pass is for token n.
        """
        w = self.placement.weights[j]
        index = self._weight_index(number, j)
        cpu, disk = w.part_bytes["cpu"], w.part_bytes["disk"]
        # the first pass also loads these for the second
        part = 2 if number == 0 and j < self.placement.preloaded else 0
        lo, hi = _chunk(self.placement.sent_ahead(number, self.layers[j]), chunk, chunks, PIECE_ALIGN)
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
        if not self.placement.policy.pin_weight:
            stage = (Access("weight_stage", index, lo, hi),)
            yield self._task("stage_weight", p, j, k, cost.copy_work(hi - lo), home, stage, part)
            home = stage
        ring = (Access("weight_ring", index, lo, hi),)
        yield self._task("load_weight", p, j, k, cost.up_work(hi - lo), home, ring, part)

    def _weights_of(self, p: Pass, j: int) -> Accesses:
        """What a compute task of layer j reads: the unpacked weights, or the resident part and the slot of the ring."""
        nbytes = self.placement.weights[j].unpacked_bytes
        if nbytes:
            return access("weights_unpacked", self._weight_index(p.number, j), nbytes)
        return self._stored_weights(p, j)

    def _weight_index(self, number: int, j: int) -> int:
        return number * self._turns(len(self.layers)) + j

    def _stored_weights(self, p: Pass, j: int) -> Accesses:
        """Layer j's weights as they are stored: its resident part and its slot of the ring."""
        w = self.placement.weights[j]
        resident = access("weights_gpu", j, w.part_bytes["gpu"])
        return resident + access("weight_ring", self._weight_index(p.number, j), w.blob_bytes)

    def _unpack_weight(self, p: Pass, j: int, k: int) -> Tasks:
        """Packed weights are unpacked once a pass, before the first micro-batch that computes with them."""
        w, index = self.placement.weights[j], self._weight_index(p.number, j)
        slot = index % self.placement.unpacked_slots
        if not w.unpacked_bytes or self._unpacked.get(slot) == index:
            return
        self._unpacked[slot] = index
        work = cost.unpack_work(w.part_bytes["gpu"] + w.blob_bytes, w.unpacked_bytes)
        writes = access("weights_unpacked", index, w.unpacked_bytes)
        yield self._task("unpack_weight", p, j, k, work, self._stored_weights(p, j), writes)


def _chunk(nbytes: int, chunk: int, chunks: int, align: int) -> tuple[int, int]:
    """Bytes of chunk ``chunk`` of ``chunks`` nearly equal, aligned chunks."""
    units = -(-nbytes // align)
    lo, hi = units * chunk // chunks * align, units * (chunk + 1) // chunks * align
    return min(lo, nbytes), min(hi, nbytes)
