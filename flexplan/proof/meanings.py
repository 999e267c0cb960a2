"""Meanings: what a task of each kind needs, and what it makes of it.

Written from the placement and from what the handlers of a runtime do, not from the verbs that write the accesses:
of the verbs nothing is believed.  A part is a range of bytes that a task declares, with the values that must be there,
or will be.  Letters: i token, j layer of the schedule, k micro-batch, d transformer layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flexplan.graph import KINDS, Access, Task
from flexplan.model import EMBED, HEAD, MLP, Layer
from flexplan.placement import DISK_ALIGN, ID_BYTES, PROB_BYTES, Placement, Segment
from flexplan.proof.values import Span, Value
from flexplan.units import round_up


class Part(NamedTuple):
    """Bytes ``lo .. hi`` of a buffer; ``index`` None is any: a ring's, which the schedule chooses."""

    buffer: str
    index: int | None  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    lo: int
    hi: int
    spans: tuple[Span, ...]
    before: tuple[Span, ...] = ()  # what has to be there when it is written, as it is written in part

    def __str__(self) -> str:
        return f"{self.buffer}[{'any' if self.index is None else self.index}]:{self.lo}-{self.hi}"


Parts = tuple[Part, ...]


class Meaning(NamedTuple):
    """Of one task, in the order in which it declares them."""

    reads: Parts
    writes: Parts


class Unmeant(Exception):
    """No task of this kind is asked for at this place; the argument says why."""


def part(
    buffer: str, index: int | None, lo: int, hi: int, value: Value, shift: int = 0, before: Value | None = None
) -> Parts:
    """Bytes of one value, if there are any; ``before``, the value that they hold until then."""
    if hi <= lo:
        return ()
    old = () if before is None else (Span(lo, hi, before, shift),)
    return (Part(buffer, index, lo, hi, (Span(lo, hi, value, shift),), old),)


class Meanings:
    """The meanings of the tasks of one placement."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.layers = placement.layers
        self.last = placement.block.gen_len - 1
        self.element = placement.shape.bytes_per_element
        self._weights_of: dict[int, Parts] = {}  # of a layer, and by kind of step and micro-batch: all passes alike
        self._parts_of: dict[tuple[int, int], tuple[int, int, int]] = {}
        self._kinds: dict[str, Callable[[Task], Meaning]] = {kind: getattr(self, f"_{kind}") for kind in KINDS}

    def of(self, task: Task) -> Meaning:
        """The meaning of a task whose numbers are in range; raises Unmeant where it has none."""
        return self._kinds[task.kind](task)

    def begins(self, i: int, j: int, k: int) -> bool:
        """Whether a step has two halves, ``project`` and ``compute``."""
        layer = self.layers[j]
        return bool(layer.attends and i and (self.placement.hosted(i, layer, k) or self._chosen(layer, i, k)))

    def row_bytes(self, k: int) -> int:
        """Of one token of every row."""
        return self.placement.rows(k) * ID_BYTES

    # -- weights -------------------------------------------------------------------------------------------------
    def _read_weight(self, t: Task) -> Meaning:
        lo, hi = self._chunk(t)
        _require(lo % DISK_ALIGN == hi % DISK_ALIGN == 0, f"the disk is read in blocks of {DISK_ALIGN} bytes")
        value = Value("disk weights", j=t.j)
        return Meaning(part("weights_disk", t.j, lo, hi, value), part("weight_relay", None, lo, hi, value))

    def _stage_weight(self, t: Task) -> Meaning:
        lo, hi = self._chunk(t)
        value = Value("host weights", j=t.j)
        return Meaning(part("weights_cpu", t.j, lo, hi, value), part("weight_stage", None, lo, hi, value))

    def _load_weight(self, t: Task) -> Meaning:
        lo, hi = self._chunk(t)
        source = t.reads[0].buffer
        _require(source in ("weights_cpu", "weight_stage", "weight_relay"), f"weights are not loaded from {source}")
        from_disk = source == "weight_relay"
        ahead = self.placement.weights[t.j].part_bytes["cpu"] if from_disk else 0  # the cpu's part comes first
        value = Value("disk weights" if from_disk else "host weights", j=t.j)
        home = part(source, t.j if source == "weights_cpu" else None, lo, hi, value)
        return Meaning(home, part("weight_ring", None, ahead + lo, ahead + hi, value, -ahead))

    def _chunk(self, t: Task) -> tuple[int, int]:
        """Weights move in chunks as the schedule likes: of what is read depends what must be written."""
        _require(len(t.reads) == 1, "it reads one range")
        lo, hi = t.reads[0].lo, t.reads[0].hi
        _require(lo < hi, "its range is empty")
        return lo, hi

    def _unpack_weight(self, t: Task) -> Meaning:
        _require(self.placement.weights[t.j].unpacked_bytes > 0, "the layer's weights are not packed")
        return Meaning(self._stored_weights(t.j), self._weights(t.j))

    def _stored_weights(self, j: int) -> Parts:
        w = self.placement.weights[j]
        cpu = w.part_bytes["cpu"]
        resident = part("weights_gpu", j, 0, w.part_bytes["gpu"], Value("gpu weights", j=j))
        spans = part("", None, 0, cpu, Value("host weights", j=j))
        spans += part("", None, cpu, w.blob_bytes, Value("disk weights", j=j), -cpu)
        if not spans:
            return resident
        return (*resident, Part("weight_ring", None, 0, w.blob_bytes, tuple(p.spans[0] for p in spans)))

    def _weights(self, j: int) -> Parts:
        """What a layer computes with."""
        found = self._weights_of.get(j)
        if found is None:
            unpacked = part(
                "weights_unpacked", None, 0, self.placement.weights[j].unpacked_bytes, Value("unpacked weights", j=j)
            )
            found = self._weights_of[j] = unpacked or self._stored_weights(j)
        return found

    # -- token ids and rows of the token table ---------------------------------------------------------------------
    def _load_ids(self, t: Task) -> Meaning:
        _require(t.i == t.j == 0, "only the prompt's ids come from the host")
        return Meaning(self._prompt("ids_host", t.k), self._prompt("ids", t.k))

    def _prompt(self, buffer: str, k: int) -> Parts:
        nbytes = self.row_bytes(k) * self.placement.new_tokens(0, k)
        return part(buffer, k, 0, nbytes, Value("prompt", k=k))

    def _newest(self, i: int, k: int) -> Parts:
        """The new token of step i where it was chosen."""
        size = self.row_bytes(k)
        return part("ids", k, 0, size, Value("tokens", k=k), i * size)

    def _output(self, i: int, k: int) -> Parts:
        """The same where the caller finds it."""
        size = self.row_bytes(k)
        return part("outputs", k, i * size, (i + 1) * size, Value("tokens", k=k))

    def _store_ids(self, t: Task) -> Meaning:
        _require(t.j == len(self.layers) - 1, "the head's layer chooses tokens")
        return Meaning(self._newest(t.i, t.k), self._output(t.i, t.k))

    def _gather(self, t: Task) -> Meaning:
        _require(t.j == 0, "rows are gathered for the embedding")
        table = self.placement.table
        ids = self._output(t.i - 1, t.k) if t.i else self._prompt("ids_host", t.k)
        homes = part("weights_cpu", table.j, 0, table.part_bytes["cpu"], Value("host weights", j=table.j))
        homes += part("weights_disk", table.j, 0, table.part_bytes["disk"], Value("disk weights", j=table.j))
        return Meaning(ids + homes, self._rows("rows_host", t))

    def _load_rows(self, t: Task) -> Meaning:
        _require(t.j == 0, "rows are gathered for the embedding")
        return Meaning(self._rows("rows_host", t), self._rows("rows", t))

    def _rows(self, buffer: str, t: Task) -> Parts:
        _require(self.placement.gathers, "the whole token table is on the gpu")
        tokens = self.placement.rows(t.k) * self.placement.new_tokens(t.i, t.k)
        nbytes = tokens * self.placement.shape.embed_size * self.element
        return part(buffer, None, 0, nbytes, Value("rows of the table", i=t.i, k=t.k))

    def _embedded(self, t: Task) -> Parts:
        """What the embedding reads beside its weights."""
        table = self.placement.table
        reads = self._newest(t.i - 1, t.k) if t.i else self._prompt("ids", t.k)
        if table.j:
            reads += part("weights_gpu", table.j, 0, table.part_bytes["gpu"], Value("gpu weights", j=table.j))
        return reads + (self._rows("rows", t) if self.placement.gathers else ())

    # -- hidden states ---------------------------------------------------------------------------------------------
    def _read_hidden(self, t: Task) -> Meaning:
        value = self._incoming(t)
        return Meaning(self._on_disk("hidden_disk", t.k, t, value), self._on_disk("hidden_relay", None, t, value))

    def _load_hidden(self, t: Task) -> Meaning:
        value = self._incoming(t)
        gpu, cpu, disk = self._moving(t)
        homes = part("hidden_cpu", t.k, 0, cpu, value, gpu)
        homes += self._on_disk("hidden_relay", None, t, value) if disk else ()
        return Meaning(homes, self._working(t, value, gpu))

    def _store_hidden(self, t: Task) -> Meaning:
        _require(t.j < len(self.layers) - 1, "nobody takes up what the head leaves")
        value = Value("hidden", t.i, t.j, t.k)
        gpu, cpu, disk = self._moving(t)
        homes = part("hidden_cpu", t.k, 0, cpu, value, gpu)
        homes += self._on_disk("hidden_relay", None, t, value) if disk else ()
        return Meaning(self._working(t, value, gpu), homes)

    def _write_hidden(self, t: Task) -> Meaning:
        value = Value("hidden", t.i, t.j, t.k)
        return Meaning(self._on_disk("hidden_relay", None, t, value), self._on_disk("hidden_disk", t.k, t, value))

    def _incoming(self, t: Task) -> Value:
        """What a layer takes up."""
        _require(t.j > 0, "the embedding takes up no hidden states")
        return Value("hidden", t.i, t.j - 1, t.k)

    def _moving(self, t: Task) -> tuple[int, int, int]:
        gpu, cpu, disk = self._parts(t)
        _require(not self.placement.hidden_stays and cpu + disk > 0, "all hidden states stay on the gpu")
        return gpu, cpu, disk

    def _parts(self, t: Task) -> tuple[int, int, int]:
        place = (min(t.i, 1), t.k)
        found = self._parts_of.get(place)
        if found is None:
            found = self._parts_of[place] = self.placement.hidden_parts(*place)
        return found

    def _on_disk(self, buffer: str, index: int | None, t: Task, value: Value) -> Parts:
        gpu, cpu, disk = self._moving(t)
        _require(disk > 0, "no hidden states are on disk")
        return part(buffer, index, 0, round_up(disk, DISK_ALIGN), value, gpu + cpu)

    def _working(self, t: Task, value: Value, lo: int = 0, hi: int | None = None) -> Parts:
        """The slot in which a layer works; where activations stay on the gpu it is their home."""
        index = t.k if self.placement.hidden_stays else None
        end = sum(self._parts(t)) if hi is None else hi
        return part("hidden_decode" if t.i else "hidden_prefill", index, lo, end, value)

    def _taken_up(self, t: Task) -> Meaning:
        """What a layer finds: what was loaded, and what is at home on the gpu and is copied beside it."""
        value, (gpu, cpu, disk) = self._incoming(t), self._parts(t)
        if self.placement.hidden_stays:
            return Meaning(self._working(t, value), ())
        loaded = self._working(t, value, gpu) if cpu + disk else ()
        home = part("hidden_gpu", t.k, 0, gpu, value)
        return Meaning(loaded + home, self._working(t, value, 0, gpu))

    def _handed_on(self, t: Task) -> Parts:
        value = Value("hidden", t.i, t.j, t.k)
        stays = self.placement.hidden_stays
        return self._working(t, value) + (() if stays else part("hidden_gpu", t.k, 0, self._parts(t)[0], value))

    # -- keys and values ---------------------------------------------------------------------------------------------
    def _read_cache(self, t: Task) -> Meaning:
        layer = self._attends(t, old=True)
        return Meaning(self._old_on_disk("cache_disk", layer, t), self._old_on_disk("cache_relay", layer, t))

    def _load_cache(self, t: Task) -> Meaning:
        layer = self._attends(t, old=True)
        s = self.placement.segment(layer, t.k)
        _require(s.streamed > 0, "none of its cache is streamed")
        cpu, disk = s.streamed_by_tier
        homes = self._home("cpu", layer, t, t.i - 1, cpu * s.capacity * s.pair_bytes)
        homes += self._old_on_disk("cache_relay", layer, t) if disk else ()
        return Meaning(homes, self._ring(layer, t))

    def _load_values(self, t: Task) -> Meaning:
        layer = self._attends(t, old=True)
        s = self.placement.segment(layer, t.k)
        chosen = self._chosen(layer, t.i, t.k)
        _require(chosen > 0, "no values are chosen")
        known = t.i if self._keeps(t) else t.i - 1
        home = self._home("cpu", layer, t, known, s.resident_bytes("cpu"))
        return Meaning(self._choices(layer, t) + home, self._values(layer, t))

    def _store_cache(self, t: Task) -> Meaning:
        layer = self._attends(t)
        s = self.placement.segment(layer, t.k)
        _require(s.off_gpu > 0, "all of its cache is on the gpu")
        _require(self._keeps(t), "nobody attends to the keys of the last token")
        home = self._home("cpu", layer, t, t.i, s.resident_bytes("cpu"), grows=True)
        return Meaning(self._fresh(layer, t), home + self._new_for_disk(layer, t))

    def _write_cache(self, t: Task) -> Meaning:
        layer = self._attends(t)
        row, (old, new) = self.placement.segment(layer, t.k).disk_row_bytes, self._tokens(t)
        _require(row > 0, "none of its cache is on disk")
        _require(t.i < self.last, "nobody reads the keys of the last token from disk")
        index = self.placement.cache_index(layer.depth, t.k)
        home = part("cache_disk", index, old * row, (old + new) * row, self._pairs(layer, t))
        return Meaning(self._new_for_disk(layer, t), home)

    def _attends(self, t: Task, *, old: bool = False) -> Layer:
        layer = self.layers[t.j]
        _require(layer.attends, "its layer does not attend")
        _require(t.i > 0 or not old, "there are no old keys and values when a prompt begins")
        return layer

    def _keeps(self, t: Task) -> bool:
        """The last token's keys and values are needed by the host alone, in the same step."""
        return t.i < self.last or (self.placement.policy.cpu_cache_compute and t.i > 0)

    def _tokens(self, t: Task) -> tuple[int, int]:
        """Positions of a row that are in the cache, and that this step adds."""
        new = self.placement.new_tokens(t.i, t.k)
        return self.placement.context(t.i, t.k) - new, new

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
        nbytes = s.off_gpu * self._tokens(t)[1] * s.pair_bytes
        return part("fresh", None, 0, nbytes, Value("new pairs", t.i, layer.depth, t.k))

    def _pairs(self, layer: Layer, t: Task) -> Value:
        """Keys and values that the disk keeps, token by token."""
        return Value("disk cache", j=layer.depth, k=t.k)

    def _old_on_disk(self, buffer: str, layer: Layer, t: Task) -> Parts:
        row = self.placement.segment(layer, t.k).disk_row_bytes
        _require(row > 0, "none of its cache is on disk")
        index = self.placement.cache_index(layer.depth, t.k) if buffer == "cache_disk" else None
        return part(buffer, index, 0, self._tokens(t)[0] * row, self._pairs(layer, t))

    def _new_for_disk(self, layer: Layer, t: Task) -> Parts:
        row, (old, new) = self.placement.segment(layer, t.k).disk_row_bytes, self._tokens(t)
        return part("cache_out", None, 0, new * row, self._pairs(layer, t), old * row)

    # -- attention in two halves ---------------------------------------------------------------------------------------
    def _project(self, t: Task) -> Meaning:
        _require(self.begins(t.i, t.j, t.k), "its step has no first half")
        layer, found = self.layers[t.j], self._taken_up(t)
        reads = self._weights(t.j) + found.reads + self._on_gpu(layer, t, t.i - 1) + self._ring(layer, t)
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
        s, (old, _) = self.placement.segment(layer, t.k), self._tokens(t)
        reads, writes = self._queries("queries_host", layer, t), self._from_host(layer, t)
        if s.grains[1] > s.shared:
            reads += self._home("cpu", layer, t, t.i, s.resident_bytes("cpu"))
        if s.grains[2]:
            row = s.disk_row_bytes
            reads += self._old_on_disk("cache_relay", layer, t) + self._new_for_disk(layer, t)
            writes += part("cache_relay", None, old * row, (old + 1) * row, self._pairs(layer, t))
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
        _require(self.placement.hosted(t.i, layer, t.k) > 0, "the host does not attend over its cache")
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
        return self.placement.segment(layer, k).streamed * self.placement.chosen(i, k)

    def _choices(self, layer: Layer, t: Task) -> Parts:
        nbytes = self._chosen(layer, t.i, t.k) * ID_BYTES
        return part("choices", None, 0, nbytes, Value("choices", t.i, layer.depth, t.k))

    def _probs(self, layer: Layer, t: Task) -> Parts:
        nbytes = self._chosen(layer, t.i, t.k) * self.placement.shape.group_size * PROB_BYTES
        return part("probs", None, 0, nbytes, Value("weights of choices", t.i, layer.depth, t.k))

    def _values(self, layer: Layer, t: Task) -> Parts:
        s: Segment = self.placement.segment(layer, t.k)
        nbytes = self._chosen(layer, t.i, t.k) * s.vector_bytes
        return part("values", None, 0, nbytes, Value("chosen values", t.i, layer.depth, t.k))

    # -- layers --------------------------------------------------------------------------------------------------------
    def _compute(self, t: Task) -> Meaning:
        layer, weights = self.layers[t.j], self._weights(t.j)
        if layer.role == EMBED:
            return Meaning(weights + self._embedded(t), self._handed_on(t))
        if layer.attends and self.begins(t.i, t.j, t.k):
            return self._merge(t, layer)
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
        reads = self._weights(t.j) + self._working(t, self._incoming(t))
        reads += part("attention", None, 0, self._attention_bytes(t), attention)
        if not self._hosted_bytes(layer, t):
            reads += self._probs(layer, t) + self._values(layer, t)
        return Meaning(reads, self._handed_on(t))


def matches(access: Access, asked: Part) -> bool:
    """Whether a task declares the very bytes that its meaning asks for."""
    return (
        access.buffer == asked.buffer
        and access.lo == asked.lo
        and access.hi == asked.hi
        and (asked.index is None or access.index == asked.index)
    )


def _require(holds: bool, why: str) -> None:
    if not holds:
        raise Unmeant(why)
