"""A rolling pass: whoever sits decodes a token, and the prompts of newcomers go through the same layers behind them.

The cache of a seat is a ring of columns: in pass n every row of a micro-batch writes column n modulo its room, so one
place serves all rows, and a row begins where its prompt did; of a layer with a window the ring is as long as that.
Newcomers' prompts stand one behind the other as one row;
their keys and values go to the columns before the next pass's, the last of them into that of this pass, behind the
decoding rows, which write there, too.
"""

from __future__ import annotations

from collections.abc import Iterator

from flexplan.cost import work as cost
from flexplan.errors import PolicyError
from flexplan.graph import Access, Finished, Sweep, Task, TaskGraph, Work, never
from flexplan.model import EMBED, HEAD, MLP, Layer
from flexplan.model.layers import TRANSFORMER
from flexplan.placement import ID_BYTES, PASSES_IN_FLIGHT, Layout, Placement
from flexplan.policy import Policy, rolling_block
from flexplan.problem import Problem
from flexplan.schedule.emitter import Accesses, Pass, Tasks, access, remembered
from flexplan.schedule.moves import heads_moved
from flexplan.schedule.seats import Boarding, Guest, Seats
from flexplan.schedule.traversal import Traversal
from flexplan.schedule.verbs import Verbs

_MOVE_WORK = {
    "move_gpu": cost.gpu_copy_work,
    "move_cpu": cost.copy_work,
    "move_up": cost.up_work,
    "move_down": cost.down_work,
}


def rolling_graph(name: str, problem: Problem, policy: Policy) -> TaskGraph:
    """The graph of a whole job: its requests take seats as they become free.

    ``finished`` of its sweeps is asked of requests, by their places in the workload; where nobody is asked, on paper,
    answers end where they are likely to.
    """
    refuse_to_roll(policy)
    block = rolling_block(problem.workload, policy)
    placement = Placement.of(problem.model, policy, block)

    def make(finished: Finished) -> Iterator[Sweep]:
        verbs = RollingVerbs(placement)
        work, on_paper = problem.workload, finished is never
        lens = work.likely_lens_of(range(work.num_prompts or block.num_rows)) if on_paper else ()
        for boarding in Seats(block, work, policy, lens).boardings(finished):
            yield sweep_of(verbs, boarding)

    return TaskGraph(name, placement.live, Layout.of(placement).buffers, make)


def sweep_of(verbs: RollingVerbs, boarding: Boarding) -> Sweep:
    """The tasks of one pass; none where nobody is there."""
    if boarding.waits:
        return Sweep(boarding.number + 1, (), (), boarding=boarding)
    p = Pass(boarding.number, boarding.number + 1, tuple(boarding.guests) or tuple(boarding.newcomers)[:1])
    tasks = _RollingTraversal(verbs, p, boarding).tasks()
    return Sweep(p.i, tuple({**boarding.guests, **boarding.newcomers}), tasks, boarding=boarding)


def sweep_of_boarding(placement: Placement, boarding: Boarding) -> Sweep:
    """One pass of a job by itself."""
    return sweep_of(RollingVerbs(placement), boarding)


def refuse_to_roll(policy: Policy) -> None:
    """Raise PolicyError for what the schedule does not do, each by its name."""
    streams = policy.cache_gpu_percent < 100 and (not policy.cpu_cache_compute or policy.cache_stream_percent)
    for wrong, what, fix in (
        (policy.act_gpu_percent < 100, f"act_gpu_percent {policy.act_gpu_percent:g}", "act_gpu_percent=100"),
        (policy.cache_disk_percent, f"cache_disk_percent {policy.cache_disk_percent:g}", "no cache on disk"),
        (policy.attn_sparsity < 1, f"attn_sparsity {policy.attn_sparsity:g}", "attn_sparsity=1.0"),
        (policy.experts_on_demand, "experts_on_demand", "experts_on_demand=False"),
        (
            streams,
            "keys and values that the gpu streams from the host",
            "cpu_cache_compute=True and cache_stream_percent=0, or cache_gpu_percent=100",
        ),
    ):
        if wrong:
            message = f"the rolling schedule does not take {what}"
            raise PolicyError("FP217", message, fix=f"{fix}, or the schedule zigzag")


class RollingVerbs(Verbs):
    """The verbs of seats; ``boarding`` is who is there in the pass that is being written."""

    boarding: Boarding

    def __init__(self, placement: Placement) -> None:
        super().__init__(placement)
        self._batches = len(placement.block.batches)
        self._door_work = remembered(self._door_work_of, maxsize=1024)

    def _attended(self, p: Pass, layer: Layer, k: int) -> float:
        window = self.placement.shape.window(layer.depth) if layer.attends else 0
        return self.boarding.attended(k, window) / self.placement.rows(k)

    # -- who decodes ----------------------------------------------------------------------------------------------
    def load_ids(self, p: Pass, k: int) -> Tasks:
        """Where each row begins; with a token table off the gpu, also the rows of the tokens of the pass before."""
        nbytes = (1 + self.placement.rows(k)) * ID_BYTES
        begins = access("seats_host", self._in_flight(p.number, k), nbytes)
        yield self._task("load_ids", p, 0, k, cost.up_work(nbytes), begins, access("seats", k, nbytes))
        if self.placement.gathers:
            yield from self._gather(p, k, self._newest_on_host(p, k), self.placement.rows(k), self._turn(p, 0, 1, k))

    def _newest_on_host(self, p: Pass, k: int) -> Accesses:
        """Tokens of the pass before: of those who were there, and of those who have moved there since."""
        moves = [move for move in self.boarding.moves if move.now.k == k]
        stay = access("outputs", self._in_flight(p.number - 1, k), self._ids_bytes(k)) if self._stays(k) else ()
        came = (_id_of(move.was, "outputs", self._in_flight(p.number - 1, move.was.k)) for move in moves)
        return (*stay, *came)

    def _stays(self, k: int) -> bool:
        """Whether somebody who decodes in a micro-batch has been there before this pass."""
        return len(self.boarding.guests[k]) > sum(move.now.k == k for move in self.boarding.moves)

    def _embed_reads(self, p: Pass, k: int) -> Accesses:
        reads = access("ids", k, self._ids_bytes(k)) + access("seats", k, (1 + self.placement.rows(k)) * ID_BYTES)
        return reads + self._table_reads(self._turn(p, 0, 1, k), self.placement.rows(k))

    def store_ids(self, p: Pass, k: int) -> Tasks:
        """The new token of every row to the host, once those of newcomers are there, too."""
        if k not in self.boarding.newcomers:
            yield from self._store_ids(p, k)

    def _store_ids(self, p: Pass, k: int) -> Tasks:
        nbytes = self._ids_bytes(k)
        writes = access("outputs", self._in_flight(p.number, k), nbytes)
        yield self._task(
            "store_ids", p, len(self.layers) - 1, k, cost.down_work(nbytes), access("ids", k, nbytes), writes
        )

    def _begins_on_host(self, p: Pass, k: int) -> Accesses:
        return access("seats_host", self._in_flight(p.number, k), (1 + self.placement.rows(k)) * ID_BYTES)

    def _keeps_cache(self, p: Pass, k: int) -> bool:
        return True

    # -- who moves ------------------------------------------------------------------------------------------------
    def move(self, p: Pass, j: int) -> Tasks:
        """What layer j keeps of those who move, before it is at work in their new seats; the first has their tokens."""
        if self.layers[j].role == EMBED:
            yield from self._move_ids(p, j)
        if not self.layers[j].attends:
            return
        depth = self.layers[j].depth
        for n, move in enumerate(self.boarding.moves, 1):
            segment = self.placement.segment(self.layers[j], move.was.k)
            nbytes = min(move.was.context(p.number) - 1, segment.capacity) * segment.pair_bytes
            for kind, source, target, first, stop in heads_moved(self.placement, depth, move):
                reads, writes = self._home(depth, move.was.k, source), self._home(depth, move.now.k, target)
                yield self._task(kind, p, j, move.now.k, _MOVE_WORK[kind]((stop - first) * nbytes), reads, writes, n)

    def _move_ids(self, p: Pass, j: int) -> Tasks:
        """The newest token of each; what others there go on with is kept."""
        filled = {move.now.k for move in self.boarding.moves if self._stays(move.now.k)}
        for n, (was, now) in enumerate(self.boarding.moves, 1):
            there = access("ids", now.k, self._ids_bytes(now.k))
            reads = _id_of(was, "ids", was.k), *(there if now.k in filled else ())
            yield self._task("move_gpu", p, j, now.k, cost.gpu_copy_work(ID_BYTES), reads, there, n)
            filled.add(now.k)

    # -- who comes in ---------------------------------------------------------------------------------------------
    def door(self, p: Pass, j: int, k: int, place: int) -> Tasks:
        """Layer j of the newcomers' prompts of micro-batch k, the ``place``-th door of the pass."""
        layer, tokens = self.layers[j], self.boarding.prompt_tokens(k)
        part = 1 + p.number  # no two doors' tasks have one name
        hidden = access("hidden_prefill", place, tokens * self.placement.shape.hidden_size * self._element)
        work, weights = self._work_at_door(layer, k), self._weights(p, j)
        door = Pass(p.number, 0, p.ks)
        yield from self._unpack_weight(p, j, k)
        if layer.role == EMBED:
            ids, turn = access("prompt_ids", place, tokens * ID_BYTES), self._door_turn(p, place)
            yield from self._load_prompts(door, k, place, tokens, part)
            reads = ids + self._table_reads(turn, tokens)
            yield self._task("compute", door, j, k, work, weights + reads, hidden, part)
        elif layer.role == HEAD:
            chosen = access("ids", k, self._ids_bytes(k))
            kept = chosen if k in self.boarding.guests else ()
            yield self._task("compute", door, j, k, work, weights + hidden + kept, hidden + chosen, part)
            yield from self._store_ids(p, k)
        elif layer.role == MLP:
            yield self._task("compute", door, j, k, work, weights + hidden, hidden, part)
        else:
            yield from self._attend_at_door(door, p, j, k, place, work, hidden)

    def _load_prompts(self, door: Pass, k: int, place: int, tokens: int, part: int) -> Tasks:
        nbytes, slots = tokens * ID_BYTES, self.placement.block.doors
        home = access("prompt_ids_host", door.number % PASSES_IN_FLIGHT * slots + place, nbytes)
        yield self._task("load_ids", door, 0, k, cost.up_work(nbytes), home, access("prompt_ids", place, nbytes), part)
        if self.placement.gathers:
            yield from self._gather(door, k, home, tokens, self._door_turn(door, place), part)

    def _attend_at_door(self, door: Pass, p: Pass, j: int, k: int, place: int, work: Work, hidden: Accesses) -> Tasks:
        layer, part = self.layers[j], 1 + p.number
        leaving = self._leaving(layer, k) * self.placement.segment(layer, k).pair_bytes
        doors = self.placement.block.doors  # each has a turn: none waits until the one before has left the gpu
        turn = (p.number * self.placement.shape.num_layers + layer.depth) * doors + place
        fresh = access("fresh_prefill", turn, leaving)
        resident = self._home(layer.depth, k, "gpu") if self._staying(layer, k) else ()
        writes = hidden + resident + fresh
        yield self._task("compute", door, j, k, work, self._weights(p, j) + hidden, writes, part)
        if leaving:
            home = self._home(layer.depth, k, "cpu")
            yield self._task("store_cache", door, j, k, cost.down_work(leaving), fresh, home, part)

    def _leaving(self, layer: Layer, k: int) -> int:
        """Tokens of newcomers' heads that are kept, and whose home is not the gpu."""
        heads, stays = self.placement.shape.num_kv_heads, self.placement.heads_on_gpu
        room = self.placement.segment(layer, k).capacity
        some = self.boarding.newcomers[k]
        return sum((heads - stays(layer.depth, k, g.row)) * min(g.prompt_len, room) for g in some)

    def _staying(self, layer: Layer, k: int) -> bool:
        """Does anything of them stay?"""
        heads = self.placement.shape.num_kv_heads
        return min(g.row for g in self.boarding.newcomers[k]) * heads < self.placement.segment(layer, k).grains[0]

    def _work_at_door(self, layer: Layer, k: int) -> Work:
        s = self.placement.shape
        depth = layer.depth if layer.depth < s.dense_layers else -1  # the others are alike
        window = s.window(layer.depth) if layer.attends else 0
        return self._door_work(layer.role, depth, window, self._lengths(k))

    def _door_work_of(self, role: str, depth: int, window: int, lengths: tuple[int, ...]) -> Work:
        s, tokens = self.placement.shape, sum(lengths)
        if role == EMBED:
            return cost.embed_work(s, tokens)
        if role == HEAD:
            return cost.head_work(s, len(lengths))
        if role == MLP:
            return cost.mlp_work(s, tokens, depth)
        work = cost.project_work(s, tokens).plus(cost.merge_work(s, tokens))
        for length in lengths:
            work = work.plus(cost.prompt_attention_work(s, 1, length, min(length, window or length)))
        return work.plus(cost.mlp_work(s, tokens, depth)) if role == TRANSFORMER else work

    # -- what they share ------------------------------------------------------------------------------------------
    @property
    def _element(self) -> int:
        return self.placement.shape.bytes_per_element

    def _lengths(self, k: int) -> tuple[int, ...]:
        return tuple(guest.prompt_len for guest in self.boarding.newcomers[k])

    def _ids_bytes(self, k: int) -> int:
        return self.placement.rows(k) * ID_BYTES

    def _in_flight(self, number: int, k: int) -> int:
        return number % PASSES_IN_FLIGHT * self._batches + k

    def _door_turn(self, p: Pass, place: int) -> int:
        return self._turn(p, 0, 1, p.ks[0]) + place


def _id_of(guest: Guest, buffer: str, index: int) -> Access:
    """The token of a guest among those of its micro-batch."""
    return Access(buffer, index, guest.row * ID_BYTES, (guest.row + 1) * ID_BYTES)


class _RollingTraversal(Traversal):
    """The order of one pass: who moves before a layer, all that decode at it, then the newcomers."""

    def __init__(self, verbs: RollingVerbs, p: Pass, boarding: Boarding) -> None:
        super().__init__(verbs, p, boarding.last)
        self.rolling = verbs
        self.boarding = boarding

    def tasks(self) -> Iterator[Task]:
        """All of the pass, in order."""
        self.rolling.boarding = self.boarding
        yield from self._preload()
        yield from self.rolling.move(self.p, 0)
        count = len(self.p.ks)
        for j in range(len(self.verbs.layers)):
            if j + 1 < len(self.verbs.layers):  # whose first step begins before this layer ends
                yield from self.rolling.move(self.p, j + 1)
            for n in range(j * count, (j + 1) * count):
                yield from self._step(n) if self.boarding.guests else self._load_weight(j, self.p.ks[0], 0)
            for place, k in enumerate(self.boarding.newcomers):
                yield from self.rolling.door(self.p, j, k, place)
