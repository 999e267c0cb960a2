"""Attention in two halves: around the host, or around the values that were chosen."""

from __future__ import annotations

from flexplan.graph import Task
from flexplan.model import Layer
from flexplan.placement import ID_BYTES, PROB_BYTES
from flexplan.proof.meanings.cache import CacheMeanings
from flexplan.proof.meanings.hidden import HiddenMeanings
from flexplan.proof.meanings.part import Meaning, Parts, part, require
from flexplan.proof.meanings.weights import WeightMeanings
from flexplan.proof.values import Value


class AttentionMeanings(WeightMeanings, HiddenMeanings, CacheMeanings):
    """Attention in two halves: around the host, or around the values that were chosen."""

    def begins(self, i: int, j: int, k: int) -> bool:
        """Whether a step has two halves, ``project`` and ``compute``."""
        layer = self.layers[j]
        return bool(layer.attends and i and (self.placement.hosted(i, layer, k) or self._chosen(layer, i, k)))

    def _project(self, t: Task) -> Meaning:
        require(self.begins(t.i, t.j, t.k), "its step has no first half")
        layer, found = self.layers[t.j], self._taken_up(t)
        reads = self._weights(t) + found.reads + self._on_gpu(layer, t, t.i - 1) + self._ring(layer, t)
        done = self._attention_bytes(t) - self._hosted_bytes(layer, t)
        writes = found.writes + self._fresh(layer, t) + self._on_gpu(layer, t, t.i) + self._ring(layer, t, used=True)
        writes += part("attention", None, 0, done, Value("attention", t.i, layer.depth, t.k))
        return Meaning(
            reads, writes + self._queries("queries", layer, t) + self._choices(layer, t) + self._probs(layer, t)
        )

    def _send_query(self, t: Task) -> Meaning:
        layer = self._hosts(t)
        return Meaning(self._queries("queries", layer, t), self._queries("queries_host", layer, t))

    def _attend(self, t: Task) -> Meaning:
        layer = self._hosts(t)
        s = self.placement.segment(layer, t.k)
        reads, writes = self._queries("queries_host", layer, t), self._from_host(layer, t)
        if s.grains[1] > s.shared:
            reads += self._home("cpu", layer, t, t.i, s.resident_bytes("cpu"))
        if s.grains[2]:
            reads += self._old_on_disk("cache_relay", layer, t) + self._new_for_disk(layer, t)
            writes += self._placed("cache_relay", None, layer, t)
        return Meaning(reads, writes)

    def _load_attention(self, t: Task) -> Meaning:
        layer = self._hosts(t)
        size = self._attention_bytes(t)
        value = Value("attention", t.i, layer.depth, t.k)
        return Meaning(
            self._from_host(layer, t), part("attention", None, size - self._hosted_bytes(layer, t), size, value)
        )

    def _hosts(self, t: Task) -> Layer:
        layer = self._attends(t, old=True)
        require(self.placement.hosted(t.i, layer, t.k) > 0, "the host does not attend over its cache")
        return layer

    def _attention_bytes(self, t: Task) -> int:
        return self.placement.rows(t.k) * self.placement.shape.q_size * self.element

    def _hosted_bytes(self, layer: Layer, t: Task) -> int:
        """Queries, and as much attention, of the grains that the host attends over: the last ones."""
        shape = self.placement.shape
        return self.placement.hosted(t.i, layer, t.k) * shape.group_size * shape.head_dim * self.element

    def _queries(self, buffer: str, layer: Layer, t: Task) -> Parts:
        return part(buffer, None, 0, self._hosted_bytes(layer, t), Value("queries", t.i, layer.depth, t.k))

    def _from_host(self, layer: Layer, t: Task) -> Parts:
        nbytes = self._hosted_bytes(layer, t)
        value = Value("attention", t.i, layer.depth, t.k)
        return part("attention_host", None, 0, nbytes, value, self._attention_bytes(t) - nbytes)

    def _chosen(self, layer: Layer, i: int, k: int) -> int:
        """Old values, of all streamed grains, that are brought after their keys."""
        segment = self.placement.segment(layer, k)
        return segment.streamed * self.placement.chosen(i, segment)

    def _load_values(self, t: Task) -> Meaning:
        layer = self._attends(t, old=True)
        s = self.placement.segment(layer, t.k)
        chosen = self._chosen(layer, t.i, t.k)
        require(chosen > 0, "no values are chosen")
        known = t.i if self._keeps(t) else t.i - 1
        home = self._home("cpu", layer, t, known, s.resident_bytes("cpu"))
        return Meaning(self._choices(layer, t) + home, self._values(layer, t))

    def _choices(self, layer: Layer, t: Task) -> Parts:
        nbytes = self._chosen(layer, t.i, t.k) * ID_BYTES
        return part("choices", None, 0, nbytes, Value("choices", t.i, layer.depth, t.k))

    def _probs(self, layer: Layer, t: Task) -> Parts:
        nbytes = self._chosen(layer, t.i, t.k) * self.placement.shape.group_size * PROB_BYTES
        return part("probs", None, 0, nbytes, Value("weights of choices", t.i, layer.depth, t.k))

    def _values(self, layer: Layer, t: Task) -> Parts:
        s = self.placement.segment(layer, t.k)
        nbytes = self._chosen(layer, t.i, t.k) * s.vector_bytes
        return part("values", None, 0, nbytes, Value("chosen values", t.i, layer.depth, t.k))
