"""One pass over the layers, written once: the built-in schedules, and yours, differ in which passes they make."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from flexplan.graph import Finished, Sweep, Task, TaskGraph
from flexplan.placement import Layout, Placement
from flexplan.policy import Block, Policy, fill_blocks
from flexplan.problem import Problem
from flexplan.schedule.emitter import Pass
from flexplan.schedule.verbs import Verbs

Passes = Callable[[Block], Sequence[tuple[int, Sequence[int]]]]  # (token i, micro-batches in order), pass after pass


def graph_of(name: str, problem: Problem, policy: Policy, passes: Passes, live: int | None = None) -> TaskGraph:
    """The graph of a problem's first block: the passes in their order, less the micro-batches that have finished.

    ``live`` is how many micro-batches are in flight at a time, all by default.
    """
    block = next(fill_blocks(problem.workload, policy))
    placement = Placement.of(problem.model, policy, block, live)

    def make(finished: Finished) -> Iterator[Sweep]:
        verbs, order, number = Verbs(placement), passes(block), 0
        for n, (i, batches) in enumerate(order):
            ks = tuple(k for k in batches if not finished(k))
            if ks:
                first_or_last = i in (0, block.gen_len - 1) or n == len(order) - 1
                tasks = tasks_of_pass(verbs, Pass(number, i, ks), n == len(order) - 1)
                # sparse attention loads another whole number of values from time to time; a full window grows no more
                steps = ((placement.chosen_by_layers(i, k), placement.full_rings(i, k)) for k in ks)
                pattern = None if first_or_last else (ks, *steps)
                yield Sweep(i, ks, tasks, pattern=pattern)
                number += 1

    return TaskGraph(name, placement.live, Layout.of(placement).buffers, make)


def tasks_of_pass(verbs: Verbs, p: Pass, last: bool) -> Iterator[Task]:
    """Nothing of a pass is worked out before its first task is asked for: of many passes none ever is."""
    yield from Traversal(verbs, p, last).tasks()


class Traversal:
    """Layer by layer, all micro-batches of a layer before the next; what later verbs need arrives meanwhile."""

    def __init__(self, verbs: Verbs, p: Pass, last: bool) -> None:
        self.verbs = verbs
        self.p = p
        self.last = last
        self.overlap = verbs.placement.policy.overlap
        self.order = [(j, k) for j in range(len(verbs.layers)) for k in p.ks]
        self.attention = [(j, k) for j, k in self.order if verbs.layers[j].attends]
        self.turns = {step: turn for turn, step in enumerate(self.attention)}
        self.fetched: set[tuple[int, int]] = set()  # attention verbs whose cache is on its way
        split = [verbs.begins(p, j, k) for j, k in self.attention]
        # with one micro-batch the next step's hidden states are this step's result: nothing to fetch early
        self.hidden_early = self.overlap and len(p.ks) > 1 and not any(split)
        # where only some are split, verbs are not taken in this order
        self.cache_early = self.overlap and (all(split) or not any(split))
        # the host gathers the rows of all before it attends for one, or the others would wait for that
        self.all_embed = verbs.placement.gathers and verbs.placement.policy.cpu_cache_compute

    def tasks(self) -> Iterator[Task]:
        """All of the pass, in order."""
        yield from self._preload()
        for n in range(len(self.order)):
            yield from self._step(n)

    def _preload(self) -> Iterator[Task]:
        """What nothing before has sent for."""
        if self.p.number == 0:
            for j in range(self.verbs.placement.preloaded):
                yield from self._load_now(0, j)

    def _step(self, n: int) -> Iterator[Task]:
        """Layer j of micro-batch k, the n-th of the pass."""
        j, k = self.order[n]
        yield from self._load_weight(j, k, n % len(self.p.ks))
        if j == 0:
            yield from self.verbs.load_ids(self.p, k)
        yield from self._compute(n, j, k)

    def _load_weight(self, j: int, k: int, chunk: int) -> Iterator[Task]:
        """Of the layers that begin to arrive while this one computes, maybe of the next pass.

        They arrive in a chunk a micro-batch; where their slot was in use until now, all at once.
        """
        verbs, p = self.verbs, self.p
        for lead in range(verbs.placement.lookahead + 2):
            later, layer = divmod(j + lead, len(verbs.layers))
            number = p.number + later
            skipped = self.last if later else not number and layer < verbs.placement.preloaded
            if skipped or lead != verbs.placement.weight_leads[layer]:
                continue
            if lead >= verbs.placement.lookahead > 0:
                yield from verbs.load_weight(p, number, layer, k, chunk, len(p.ks))
            elif chunk == 0:
                yield from self._load_now(number, layer)

    def _load_now(self, number: int, j: int) -> Iterator[Task]:
        """In chunks all the same: what comes from disk is on two ways at a time."""
        ks = self.p.ks if self.overlap else self.p.ks[:1]
        for chunk, k in enumerate(ks):
            yield from self.verbs.load_weight(self.p, number, j, k, chunk, len(ks))

    def _compute(self, n: int, j: int, k: int) -> Iterator[Task]:
        """Step n of the pass; where it is split, the next layer's begins before this layer ends."""
        verbs, p = self.verbs, self.p
        if verbs.begins(p, j, k):
            if not self.overlap:
                yield from self._begin(j, k)
        else:
            if not self.hidden_early:
                yield from self._load_hidden(j, k)
            elif n + 1 < len(self.order):
                yield from self._load_hidden(*self.order[n + 1])
            yield from self._load_cache(j, k)
        yield from verbs.finish(p, j, k)
        yield from verbs.store_hidden(p, j, k)
        if j + 1 == len(verbs.layers):
            yield from verbs.store_ids(p, k)
        elif self.overlap and (j or not self.all_embed):
            yield from self._begin(j + 1, k)
        elif self.overlap and k == p.ks[-1]:
            for each in p.ks:
                yield from self._begin(1, each)

    def _begin(self, j: int, k: int) -> Iterator[Task]:
        """The first half of a step, where it is split."""
        if self.verbs.begins(self.p, j, k):
            yield from self._load_hidden(j, k)
            yield from self._load_cache(j, k)
            yield from self.verbs.begin(self.p, j, k)

    def _load_hidden(self, j: int, k: int) -> Iterator[Task]:
        if j:
            yield from self.verbs.load_hidden(self.p, j, k)

    def _load_cache(self, j: int, k: int) -> Iterator[Task]:
        """The cache of this attention step, if it is not on its way, and of the next one."""
        if not self.verbs.layers[j].attends:
            return
        turn = self.turns[j, k]
        for step in self.attention[turn : turn + (2 if self.cache_early else 1)]:
            if step not in self.fetched:
                self.fetched.add(step)
                yield from self.verbs.load_cache(self.p, *step)
