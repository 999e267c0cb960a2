"""Weights: to the gpu by chunks, unpacked there, and what a layer computes with."""

from __future__ import annotations

from flexplan.graph import Task
from flexplan.placement import DISK_ALIGN, Placement
from flexplan.proof.meanings.part import About, Meaning, Part, Parts, part, require
from flexplan.proof.values import Value


class WeightMeanings(About):
    """Weights: to the gpu by chunks, unpacked there, and what a layer computes with."""

    def __init__(self, placement: Placement) -> None:
        super().__init__(placement)
        self._weights_of: dict[int, Parts] = {}  # of a layer: all passes alike

    def _read_weight(self, t: Task) -> Meaning:
        lo, hi = self._chunk(t)
        require(lo % DISK_ALIGN == hi % DISK_ALIGN == 0, f"the disk is read in blocks of {DISK_ALIGN} bytes")
        value = Value("disk weights", j=t.j)
        return Meaning(part("weights_disk", t.j, lo, hi, value), part("weight_relay", None, lo, hi, value))

    def _stage_weight(self, t: Task) -> Meaning:
        lo, hi = self._chunk(t)
        value = Value("host weights", j=t.j)
        return Meaning(part("weights_cpu", t.j, lo, hi, value), part("weight_stage", None, lo, hi, value))

    def _load_weight(self, t: Task) -> Meaning:
        lo, hi = self._chunk(t)
        source = t.reads[0].buffer
        require(source in ("weights_cpu", "weight_stage", "weight_relay"), f"weights are not loaded from {source}")
        from_disk = source == "weight_relay"
        ahead = self.placement.weights[t.j].part_bytes["cpu"] if from_disk else 0  # the cpu's part comes first
        value = Value("disk weights" if from_disk else "host weights", j=t.j)
        home = part(source, t.j if source == "weights_cpu" else None, lo, hi, value)
        return Meaning(home, part("weight_ring", None, ahead + lo, ahead + hi, value, -ahead))

    def _chunk(self, t: Task) -> tuple[int, int]:
        """Weights move in chunks as the schedule likes: of what is read depends what must be written."""
        require(len(t.reads) == 1, "it reads one range")
        lo, hi = t.reads[0].lo, t.reads[0].hi
        require(lo < hi, "its range is empty")
        return lo, hi

    def _unpack_weight(self, t: Task) -> Meaning:
        require(self.placement.weights[t.j].unpacked_bytes > 0, "the layer's weights are not packed")
        return Meaning(self._stored_weights(t), self._weights(t))

    def _resident(self, j: int) -> Parts:
        return part("weights_gpu", j, 0, self.placement.weights[j].part_bytes["gpu"], Value("gpu weights", j=j))

    def _stored_weights(self, t: Task) -> Parts:
        j, w = t.j, self.placement.weights[t.j]
        cpu, ahead = w.part_bytes["cpu"], self.placement.sent_ahead(t.i, self.layers[t.j])
        spans = part("", None, 0, ahead, Value("host weights", j=j))
        spans += part("", None, ahead, cpu, Value("chosen experts", t.i, j, t.k))
        spans += part("", None, cpu, w.blob_bytes, Value("disk weights", j=j), -cpu)
        if not spans:
            return self._resident(j)
        return (*self._resident(j), Part("weight_ring", None, 0, w.blob_bytes, tuple(p.spans[0] for p in spans)))

    def _weights(self, t: Task) -> Parts:
        """What a layer computes with: for every token the same, but for experts on demand."""
        if self.placement.on_demand(t.i, self.layers[t.j]):
            return self._computed_with(t, Value("unpacked weights", t.i, t.j, t.k))
        found = self._weights_of.get(t.j)
        if found is None:
            found = self._weights_of[t.j] = self._computed_with(t, Value("unpacked weights", j=t.j))
        return found

    def _computed_with(self, t: Task, unpacked: Value) -> Parts:
        nbytes = self.placement.weights[t.j].unpacked_bytes
        return part("weights_unpacked", None, 0, nbytes, unpacked) or self._stored_weights(t)
