"""Keys and values: at home, streamed, and on their way."""

from __future__ import annotations

from flexplan.graph import Task
from flexplan.model import Layer
from flexplan.proof.meanings.part import About, Meaning, Part, Parts, Unmeant, part, require
from flexplan.proof.values import Value


class CacheMeanings(About):
    """Keys and values: at home, streamed, and on their way."""

    def _read_cache(self, t: Task) -> Meaning:
        layer = self._attends(t, old=True)
        return Meaning(self._old_on_disk("cache_disk", layer, t), self._old_on_disk("cache_relay", layer, t))

    def _move(self, t: Task) -> Meaning:
        raise Unmeant("rows of a block stay where they are: only those of a rolling schedule move")

    _move_gpu = _move_cpu = _move_up = _move_down = _move

    def _load_cache(self, t: Task) -> Meaning:
        layer = self._attends(t, old=True)
        s = self.placement.segment(layer, t.k)
        require(s.streamed > 0, "none of its cache is streamed")
        cpu, disk = s.streamed_by_tier
        homes = self._home("cpu", layer, t, t.i - 1, cpu * s.capacity * s.pair_bytes)
        homes += self._old_on_disk("cache_relay", layer, t) if disk else ()
        return Meaning(homes, self._ring(layer, t))

    def _store_cache(self, t: Task) -> Meaning:
        layer = self._attends(t)
        s = self.placement.segment(layer, t.k)
        require(s.off_gpu > 0, "all of its cache is on the gpu")
        require(self._keeps(t), "nobody attends to the keys of the last token")
        home = self._home("cpu", layer, t, t.i, s.resident_bytes("cpu"), grows=True)
        return Meaning(self._fresh(layer, t), home + self._new_for_disk(layer, t))

    def _write_cache(self, t: Task) -> Meaning:
        layer = self._attends(t)
        row = self.placement.segment(layer, t.k).disk_row_bytes
        require(row > 0, "none of its cache is on disk")
        require(t.i < self.last, "nobody reads the keys of the last token from disk")
        index = self.placement.cache_index(layer.depth, t.k)
        return Meaning(self._new_for_disk(layer, t), self._placed("cache_disk", index, layer, t))

    def _attends(self, t: Task, *, old: bool = False) -> Layer:
        layer = self.layers[t.j]
        require(layer.attends, "its layer does not attend")
        require(t.i > 0 or not old, "there are no old keys and values when a prompt begins")
        return layer

    def _keeps(self, t: Task) -> bool:
        """The last token's keys and values are needed by the host alone, in the same step."""
        return t.i < self.last or (self.placement.policy.cpu_cache_compute and t.i > 0)

    def _tokens(self, layer: Layer, t: Task) -> tuple[int, int]:
        """Positions of a row that a layer was ever given to keep, and those that this step gives it.

        A cache with less room keeps the last ones: position n is in column n modulo its room.
        """
        room, prompt = self.placement.segment(layer, t.k).capacity, self.placement.new_tokens(0, t.k)
        return (min(prompt, room) + t.i - 1, 1) if t.i else (0, min(prompt, room))

    def _home(self, tier: str, layer: Layer, t: Task, i: int, nbytes: int, *, grows: bool = False) -> Parts:
        """The cache of a layer on a tier, with the tokens up to that of step i."""
        what = f"{tier} cache"
        before = Value(what, i - 1, layer.depth, t.k) if grows and i else None
        index = self.placement.cache_index(layer.depth, t.k)
        return part(f"cache_{tier}", index, 0, nbytes, Value(what, i, layer.depth, t.k), before=before)

    def _on_gpu(self, layer: Layer, t: Task, i: int) -> Parts:
        return self._home("gpu", layer, t, i, self.placement.segment(layer, t.k).resident_bytes("gpu"))

    def _ring(self, layer: Layer, t: Task, *, used: bool = False) -> Parts:
        """What is streamed: the old keys and values, then with the new ones among them."""
        s = self.placement.segment(layer, t.k)
        size = s.streamed * s.capacity * s.vector_bytes * self.placement.streamed_parts
        what = "streamed cache and the new pairs" if used else "streamed cache"
        return part("cache_ring", None, 0, size, Value(what, t.i, layer.depth, t.k))

    def _fresh(self, layer: Layer, t: Task) -> Parts:
        s = self.placement.segment(layer, t.k)
        nbytes = s.off_gpu * self._tokens(layer, t)[1] * s.pair_bytes
        return part("fresh", None, 0, nbytes, Value("new pairs", t.i, layer.depth, t.k))

    def _pairs(self, layer: Layer, t: Task) -> Value:
        """Keys and values that the disk keeps, token by token."""
        return Value("disk cache", j=layer.depth, k=t.k)

    def _old_on_disk(self, buffer: str, layer: Layer, t: Task) -> Parts:
        """All that is kept of the rows: of a ring, the columns of this lap and behind them those of the lap before."""
        s = self.placement.segment(layer, t.k)
        row, (old, _) = s.disk_row_bytes, self._tokens(layer, t)
        require(row > 0, "none of its cache is on disk")
        index = self.placement.cache_index(layer.depth, t.k) if buffer == "cache_disk" else None
        if old < s.capacity:
            return part(buffer, index, 0, old * row, self._pairs(layer, t))
        at, end = old % s.capacity * row, s.capacity * row
        this = part(buffer, index, 0, at, self._pairs(layer, t), old * row - at)
        before = part(buffer, index, at, end, self._pairs(layer, t), old * row - at - end)
        spans = tuple(span for one in (*this, *before) for span in one.spans)
        return (Part(buffer, index, 0, end, spans),)

    def _placed(self, buffer: str, index: int | None, layer: Layer, t: Task) -> Parts:
        """The new rows among the old ones."""
        s = self.placement.segment(layer, t.k)
        row, (old, new) = s.disk_row_bytes, self._tokens(layer, t)
        at = old % s.capacity
        return part(buffer, index, at * row, (at + new) * row, self._pairs(layer, t), (old - at) * row)

    def _new_for_disk(self, layer: Layer, t: Task) -> Parts:
        row, (old, new) = self.placement.segment(layer, t.k).disk_row_bytes, self._tokens(layer, t)
        return part("cache_out", None, 0, new * row, self._pairs(layer, t), old * row)
