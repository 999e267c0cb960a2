"""The laws of a rolling graph, pass by pass: nobody shares a seat, a prompt is in before its row decodes, all is kept.

The order of tasks is the checker's matter (`graph/checker.py`); here is what they are to be about.  The cache of a
micro-batch in a layer has, in each pass, its reads by rows that decode, then the new token of each, then the prompts of
newcomers; whoever decodes came in an earlier pass to that very seat, and a seat is taken only when nobody sits there.
Of a prompt a layer with a window keeps the last tokens alone.  Who moves takes all that it has to a seat where nobody
sits, before a layer reads or writes either seat's cache in that pass.  Who steps back loses nothing: it comes again by
all tokens that were chosen, not before the last of them is known, and nowhere sits twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from flexplan.errors import GraphError
from flexplan.graph import Sweep, Task
from flexplan.model import EMBED, HEAD, Layer
from flexplan.placement import ID_BYTES, PASSES_IN_FLIGHT, Placement
from flexplan.schedule import Boarding, Guest, Move

_FIX = "correct the schedule"
_MOVES = frozenset(("move_gpu", "move_cpu", "move_up", "move_down"))
_HOMES = frozenset(("cache_gpu", "cache_cpu"))
_Home = tuple[str, int]  # a buffer and its index


class _Left(NamedTuple):
    """What a request has when it leaves its seat: tokens, how many of them are new, and how many may yet come."""

    tokens: int
    had: int
    most: int
    sweep: int

    @classmethod
    def of(cls, guest: Guest, number: int, sweep: int) -> _Left:
        """When it leaves in pass ``number``."""
        return cls(guest.context(number), guest.chosen(number), guest.ends - number, sweep)


class SeatingLaws:
    """What holds from pass to pass; `take` raises GraphError where one breaks a law."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.sitting: dict[tuple[int, int], Guest] = {}  # by micro-batch and row
        self.left: dict[int, _Left] = {}  # by request
        self.taken = 0  # sweeps

    def take(self, sweep: Sweep) -> None:
        """One pass."""
        boarding: Boarding = sweep.boarding
        self.taken += 1
        self._leave(boarding)
        self._move(boarding)
        self._stay(boarding)
        self._come(boarding)
        self._tasks(boarding, sweep.tasks)
        self._moved(boarding, sweep.tasks)

    # -- seats --------------------------------------------------------------------------------------------------------
    def _leave(self, boarding: Boarding) -> None:
        """Whoever decodes nowhere any more has left."""
        stays = {guest.request for some in boarding.guests.values() for guest in some}
        for seat, guest in tuple(self.sitting.items()):
            if guest.request not in stays:
                self.left[guest.request] = _Left.of(guest, boarding.number, self.taken)
                del self.sitting[seat]

    def _move(self, boarding: Boarding) -> None:
        """One after the other, each as it is, to a seat that is free by then."""
        for was, now in boarding.moves:
            if self.sitting.pop((was.k, was.row), None) != was:
                _refuse(boarding, f"request {was.request} moves from seat {was.k, was.row}, where it does not sit")
            if now != was._replace(k=now.k, row=now.row):
                _refuse(boarding, f"request {was.request} moves, and is another: {now}")
            if not 0 <= now.k < len(self.placement.block.batches) or not 0 <= now.row < self.placement.rows(now.k):
                _refuse(boarding, f"request {was.request} moves to a seat that is not there")
            if (now.k, now.row) in self.sitting:
                _refuse(boarding, f"request {was.request} moves to a seat that is taken")
            if any(was == other.now for other in boarding.moves):
                _refuse(boarding, f"request {was.request} moves twice")
            self.sitting[now.k, now.row] = now

    def _stay(self, boarding: Boarding) -> None:
        """Whoever decodes sits there."""
        there = {(g.k, g.row): g for some in boarding.guests.values() for g in some}
        if len(there) != sum(map(len, boarding.guests.values())):
            _refuse(boarding, "two requests decode in one seat")
        for seat, guest in there.items():
            if self.sitting.get(seat) != guest:
                _refuse(boarding, f"request {guest.request} decodes in seat {seat}, where its prompt never came in")
            if guest.context(boarding.number) > self.placement.block.batches[guest.k].prompt_len:
                _refuse(boarding, f"request {guest.request} is longer than its seat {seat}")

    def _come(self, boarding: Boarding) -> None:
        for k, some in boarding.newcomers.items():
            if sum(g.prompt_len for g in some) > self.placement.block.door_tokens:
                _refuse(boarding, f"more tokens come to micro-batch {k} than its door has room for")
            for guest in some:
                if (guest.k, guest.row) in self.sitting:
                    _refuse(boarding, f"request {guest.request} comes to a seat that is taken")
                if (guest.k, guest.since) != (k, boarding.number) or guest.row >= self.placement.rows(k):
                    _refuse(boarding, f"request {guest.request} comes to a seat that is not there")
                if guest.prompt_len > self.placement.block.batches[k].prompt_len:
                    _refuse(boarding, f"request {guest.request} is longer than its seat {k, guest.row}")
                self._again(boarding, guest)
                self.sitting[k, guest.row] = guest

    def _again(self, boarding: Boarding, guest: Guest) -> None:
        """Whoever was there comes by what it had, and once at a time."""
        if any(one.request == guest.request for one in self.sitting.values()):
            _refuse(boarding, f"request {guest.request} sits in two seats")
        before = self.left.get(guest.request)
        if before is None:
            if guest.had:
                _refuse(boarding, f"request {guest.request} comes again, and was never there")
            return
        if guest.had != before.had or guest.prompt_len != before.tokens:
            came, had = f"{guest.had} of {guest.prompt_len}", f"{before.had} of {before.tokens}"
            _refuse(boarding, f"request {guest.request} comes again with {came} new tokens, and had {had}")
        if guest.most != before.most or not guest.most:
            _refuse(boarding, f"request {guest.request} comes again for {guest.most} tokens of {before.most}")
        if before.sweep == self.taken:
            _refuse(boarding, f"request {guest.request} comes again before its last token is known")

    # -- tasks --------------------------------------------------------------------------------------------------------
    def _tasks(self, boarding: Boarding, tasks: Iterable[Task]) -> None:
        """Each layer of each micro-batch once, and what it leaves in the cache, the newcomers' last."""
        found: dict[tuple[bool, int, int], list[Task]] = {}
        for task in (task for task in tasks if task.kind not in _MOVES):
            found.setdefault((task.i == 0, task.j, task.k), []).append(task)
        for layer in self.placement.layers:
            for k in boarding.guests:
                if layer.role == EMBED and self.placement.gathers:
                    self._gathered(boarding, found.get((False, layer.j, k), []), k)
                mine = found.get((False, layer.j, k), [])
                self._once(boarding, mine, "compute", layer.j, k)
                if layer.attends:
                    segment = self.placement.segment(layer, k)
                    self._kept(boarding, mine, layer.j, k, self._homes(layer.depth, k))
                    self._stored(boarding, mine, layer.j, k, segment.off_gpu * segment.pair_bytes)
            for k in boarding.newcomers:
                mine = found.get((True, layer.j, k), [])
                self._once(boarding, mine, "compute", layer.j, k)
                if layer.attends:
                    self._kept(boarding, mine, layer.j, k, self._homes_of_newcomers(boarding, layer.depth, k))
                    self._stored(boarding, mine, layer.j, k, self._leaving_bytes(boarding, layer.depth, k))
                elif layer.role == EMBED:
                    self._once(boarding, mine, "load_ids", layer.j, k)
            if layer.role == HEAD:
                for k in {**boarding.guests, **boarding.newcomers}:
                    mine = [*found.get((False, layer.j, k), ()), *found.get((True, layer.j, k), ())]
                    self._once(boarding, mine, "store_ids", layer.j, k)

    def _gathered(self, boarding: Boarding, tasks: list[Task], k: int) -> None:
        """The rows of the token table are those of the tokens of all who decode, wherever each was chosen."""
        was = {move.now: move.was for move in boarding.moves}
        first = (boarding.number - 1) % PASSES_IN_FLIGHT * len(self.placement.block.batches)
        reads = [a for task in tasks for a in task.reads if a.buffer == "outputs"]
        for guest in boarding.guests[k]:
            seat, at = was.get(guest, guest), was.get(guest, guest).row * ID_BYTES
            if not any(a.index == first + seat.k and a.lo <= at and at + ID_BYTES <= a.hi for a in reads):
                _refuse(boarding, f"the newest token of request {guest.request} is not looked up in the table")

    def _once(self, boarding: Boarding, tasks: list[Task], kind: str, j: int, k: int) -> None:
        count = Counter(task.kind for task in tasks)[kind]
        if count != 1:
            _refuse(boarding, f"layer {j} of micro-batch {k} has {count} tasks {kind}")

    def _kept(self, boarding: Boarding, tasks: list[Task], j: int, k: int, homes: set[_Home]) -> None:
        """New keys and values are written to just the homes that they have."""
        written = {(a.buffer, a.index) for task in tasks for a in task.writes if a.buffer in _HOMES}
        if written != homes:
            message = (
                f"layer {j} of micro-batch {k} keeps its tokens in {sorted(written)}, their homes are {sorted(homes)}"
            )
            _refuse(boarding, message)

    def _stored(self, boarding: Boarding, tasks: list[Task], j: int, k: int, nbytes: int) -> None:
        """Of those, what is not at home on the gpu is left to be stored, and stored."""
        for verb, accesses in (("keeps", [t.writes for t in tasks]), ("stores", [t.reads for t in tasks])):
            found = sum(a.hi - a.lo for each in accesses for a in each if a.buffer in ("fresh", "fresh_prefill"))
            if found != nbytes:
                message = f"layer {j} of micro-batch {k} {verb} {found} bytes of new tokens, {nbytes} leave the gpu"
                _refuse(boarding, message)

    def _leaving_bytes(self, boarding: Boarding, depth: int, k: int) -> int:
        """Of newcomers' heads that are not at home on the gpu, the tokens for which a cache has room."""
        heads, segment = self.placement.shape.num_kv_heads, self.placement.cache[depth][k]
        off_gpu = [heads - self.placement.heads_on_gpu(depth, k, g.row) for g in boarding.newcomers[k]]
        kept = [min(g.prompt_len, segment.capacity) for g in boarding.newcomers[k]]
        return sum(n * tokens for n, tokens in zip(off_gpu, kept, strict=True)) * segment.pair_bytes

    def _moved(self, boarding: Boarding, tasks: Iterable[Task]) -> None:
        """Each head of who moves, from its home to its new one; before anything else touches either in that layer."""
        found: dict[tuple[int, int], set[tuple[_Home, _Home]]] = {}
        touched, last = set[_Home](), dict[int, int]()
        for task in tasks:
            homes = [(a.buffer, a.index) for a in (*task.reads, *task.writes) if a.buffer in (*_HOMES, "ids")]
            if task.kind not in _MOVES:
                touched.update(homes)
                continue
            if not touched.isdisjoint(homes):
                _refuse(boarding, f"{task.name} comes when its layer is at work on what it moves")
            if task.part < last.setdefault(task.j, task.part):
                _refuse(boarding, f"{task.name} comes before move {last[task.j]} of its layer")
            last[task.j] = task.part
            found.setdefault((task.j, task.part), set()).add((homes[0], homes[-1]))
        expected = {
            (layer.j, n): self._homes_of_move(move, layer)
            for layer in self.placement.layers
            if layer.attends or layer.role == EMBED
            for n, move in enumerate(boarding.moves, 1)
        }
        for j, n in {**expected, **found}:
            if found.get((j, n)) != expected.get((j, n)):
                was, asked = (sorted(each.get((j, n), ())) for each in (found, expected))
                _refuse(boarding, f"move {n} in layer {j} goes by {was}, its homes are {asked}")

    def _homes_of_move(self, move: Move, layer: Layer) -> set[tuple[_Home, _Home]]:
        if layer.role == EMBED:
            return {(("ids", move.was.k), ("ids", move.now.k))}
        heads = range(self.placement.shape.num_kv_heads)
        was, now = ([self._home_of_head(guest, layer.depth, head) for head in heads] for guest in move)
        return set(zip(was, now, strict=True))

    def _home_of_head(self, guest: Guest, depth: int, head: int) -> _Home:
        grain = guest.row * self.placement.shape.num_kv_heads + head
        buffer = "cache_gpu" if grain < self.placement.cache[depth][guest.k].grains[0] else "cache_cpu"
        return buffer, self.placement.cache_index(depth, guest.k)

    def _homes(self, depth: int, k: int) -> set[_Home]:
        segment, index = self.placement.cache[depth][k], self.placement.cache_index(depth, k)
        return {(f"cache_{tier}", index) for tier in ("gpu", "cpu") if segment.resident_bytes(tier)}

    def _homes_of_newcomers(self, boarding: Boarding, depth: int, k: int) -> set[_Home]:
        heads = range(self.placement.shape.num_kv_heads)
        return {self._home_of_head(guest, depth, head) for guest in boarding.newcomers[k] for head in heads}


def _refuse(boarding: Boarding, what: str) -> None:
    raise GraphError("FP833", f"pass {boarding.number}: {what}", fix=_FIX)
