"""Hidden states between layers, and where they wait."""

from __future__ import annotations

from flexplan.graph import Task
from flexplan.placement import DISK_ALIGN, Placement
from flexplan.proof.meanings.part import About, Meaning, Parts, part, require
from flexplan.proof.values import Value
from flexplan.units import round_up


class HiddenMeanings(About):
    """Hidden states between layers, and where they wait."""

    def __init__(self, placement: Placement) -> None:
        super().__init__(placement)
        self._parts_of: dict[tuple[int, int], tuple[int, int, int]] = {}  # by kind of step and micro-batch

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
        require(t.j < len(self.layers) - 1, "nobody takes up what the head leaves")
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
        require(t.j > 0, "the embedding takes up no hidden states")
        return Value("hidden", t.i, t.j - 1, t.k)

    def _moving(self, t: Task) -> tuple[int, int, int]:
        gpu, cpu, disk = self._parts(t)
        require(not self.placement.hidden_stays and cpu + disk > 0, "all hidden states stay on the gpu")
        return gpu, cpu, disk

    def _parts(self, t: Task) -> tuple[int, int, int]:
        place = (min(t.i, 1), t.k)
        found = self._parts_of.get(place)
        if found is None:
            found = self._parts_of[place] = self.placement.hidden_parts(*place)
        return found

    def _on_disk(self, buffer: str, index: int | None, t: Task, value: Value) -> Parts:
        gpu, cpu, disk = self._moving(t)
        require(disk > 0, "no hidden states are on disk")
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
