"""The proof: a graph executed on names, sweep after sweep, in its sequential order.

Every read must find the values that the mathematics asks for, every write is a value of the task's own; that lanes run
side by side changes nothing of it is what `flexplan.graph.check_order` proves, from the edges.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import NoReturn

from flexplan.errors import GraphError
from flexplan.graph import INLINE, KINDS, Access, Finished, Sweep, Task, TaskGraph, Work
from flexplan.placement import Layout, Placement
from flexplan.proof.laws import Broken, Laws
from flexplan.proof.meanings import Meaning, Meanings, Parts, Unmeant, matches
from flexplan.proof.repeats import Form, Repeats
from flexplan.proof.values import NOBODY, NamedMemory, Span, Value

_CONTEXT = 3  # lines around a break
_MOST_INDEX, _MOST_WORK = 1 << 62, 1e300
_FIX = "correct the schedule"
_STEPS = frozenset(("project", "compute"))


class Proof:
    """What has been proved of a graph so far; ``sweep`` raises GraphError, with the lines around the break."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.meanings = Meanings(placement)
        self.memory = NamedMemory(Layout.of(placement).buffers)
        block = placement.block
        self.laws = Laws(len(placement.layers), len(block.batches), block.gen_len, self.meanings.begins)
        self.repeats = Repeats(Layout.of(placement).buffers)
        self.recent: deque[Task] = deque(maxlen=_CONTEXT)
        self._fill()

    def _fill(self) -> None:
        """What lies there before the first task: weights and prompts."""
        for what, tier in (("gpu weights", "gpu"), ("host weights", "cpu"), ("disk weights", "disk")):
            for j, w in enumerate(self.placement.weights):
                self._put_first(f"weights_{tier}", j, w.part_bytes[tier], Value(what, j=j))
        for k, batch in enumerate(self.placement.block.batches):
            self._put_first("ids_host", k, self.meanings.row_bytes(k) * batch.prompt_len, Value("prompt", k=k))

    def _put_first(self, buffer: str, index: int, size: int, value: Value) -> None:
        if size:
            self.memory.put(Access(buffer, index, 0, size), [Span(0, size, value)])

    # -- sweeps --------------------------------------------------------------------------------------------------
    def sweep(self, sweep: Sweep) -> None:
        """The next sweep computes the next token of each of its micro-batches, and nothing else."""
        form = self._form(sweep)
        if form is not None and self.repeats.goes_on(form):
            return
        self._settle()
        for _ in self.named(sweep):
            pass
        if form is None:
            self.repeats.forget()
        else:
            self.repeats.proved(form, self.memory.slots)

    def _form(self, sweep: Sweep) -> Form | None:
        """The form of a sweep that may repeat the one before."""
        self._require_tasks(sweep)
        middle = type(sweep.i) is int and 0 < sweep.i < self.placement.block.gen_len - 1
        works = {id(task.work): task.work for task in sweep.tasks}  # equal ones are mostly one object
        usual = middle and self._steady(sweep) and all(map(_countable, works.values()))
        return Form.of(sweep) if usual else None

    def _require_tasks(self, sweep: Sweep) -> None:
        """A schedule of another package may hand out anything."""
        if type(sweep) is not Sweep or type(sweep.ks) is not tuple or not _immutable(sweep.tasks):
            raise GraphError("FP830", "a sweep that is not of Tasks with Accesses", fix=_FIX)

    def _steady(self, sweep: Sweep) -> bool:
        """Whether what is asked of this token's tasks grew evenly from that of the two before."""
        p, i, ks = self.placement, sweep.i, range(len(self.placement.block.batches))
        if any(p.rings(k) for k in ks) and any(s.grains[2] for row in p.cache for s in row):
            return False  # columns of rings on disk come round
        chosen = [[p.chosen_by_layers(at, k) for k in ks] for at in (i, i - 1, i - 2)]
        return chosen[0] == chosen[1] == chosen[2]

    def _settle(self) -> None:
        """Catch up with the sweeps that were not looked at."""
        if self.repeats.passed:
            last = self.repeats.passed
            for k in self.repeats.batches:
                self.laws.tokens[k] += last
            self.repeats.settle(self.memory.slots)

    def named(self, sweep: Sweep) -> Iterator[tuple[Task, Meaning]]:
        """Prove a sweep; its tasks with what they need and make."""
        with _lawful(_place(sweep)):
            self.laws.begin(sweep)
        for task in sweep.tasks:
            self.recent.append(task)
            yield task, self._task(sweep, task)
        with _lawful(f"sweep i={sweep.i}"):
            self.laws.end(sweep)
        self._require_outputs(sweep)

    def _require_outputs(self, sweep: Sweep) -> None:
        """The caller takes the tokens of a sweep when it is done."""
        for k in sweep.ks:
            nbytes = self.meanings.row_bytes(k) * (sweep.i + 1)
            if self.memory.lack(Access("outputs", k, 0, nbytes), Span(0, nbytes, Value("tokens", k=k))):
                message = f"sweep i={sweep.i}: token {sweep.i} of micro-batch {k} is never stored in outputs"
                raise GraphError("FP821", message, fix=_FIX)

    def finish(self, finished: Finished) -> None:
        """The graph has ended; raises GraphError where a micro-batch has more to say."""
        self._settle()
        with _lawful("the graph ends"):
            self.laws.finish(finished)

    # -- tasks ---------------------------------------------------------------------------------------------------
    def _task(self, sweep: Sweep, task: Task) -> Meaning:
        self._require_sound(sweep, task)
        try:
            meaning = self.meanings.of(task)
            if task.kind in _STEPS:
                self.laws.step(sweep, task)
        except (Unmeant, Broken) as why:
            self._fail("FP822", str(why))
        chosen: dict[str, int] = {}  # a handler works in one slot of a ring, which it reads and writes
        self._require_declared("reads", task.reads, meaning.reads, chosen)
        self._require_declared("writes", task.writes, meaning.writes, chosen)
        for access, asked in zip(task.reads, meaning.reads, strict=True):
            self._require_held(access, asked.spans)
        for access, asked in zip(task.writes, meaning.writes, strict=True):
            self._require_held(access, asked.before)
            self.memory.put(access, asked.spans)
        return meaning

    def _require_sound(self, sweep: Sweep, task: Task) -> None:
        """A known kind on its lane, at a place of the block, with work that can be counted."""
        kind = KINDS.get(task.kind)
        if kind is None:
            self._fail("FP823", f"is of no known kind ({', '.join(KINDS)})")
        lane = kind.lane if self.placement.policy.overlap else INLINE
        if task.lane != lane:
            self._fail("FP824", f"is on lane {task.lane!r:.40}, must be on {lane}")
        num_layers, num_batches = len(self.placement.layers), len(self.placement.block.batches)
        places = (task.i, sweep.i + 1), (task.j, num_layers), (task.k, num_batches), (task.part, _MOST_INDEX)
        if task.i != sweep.i or not all(type(n) is int and 0 <= n < end for n, end in places):
            self._fail("FP825", f"is not at a place of sweep i={sweep.i} of {num_layers} layers x {num_batches}")
        if not _countable(task.work):
            self._fail("FP826", "has work that is not a number from 0 on")

    def _require_declared(self, what: str, accesses: tuple[Access, ...], asked: Parts, chosen: dict[str, int]) -> None:
        """The task declares what its meaning asks for, in order; a ring's index is the same wherever it occurs."""
        same = len(accesses) == len(asked)
        for access, one in zip(accesses, asked, strict=False):
            same = same and _whole(access) and matches(access, one) and one.buffer in self.memory.slots
            same = same and (one.index is not None or chosen.setdefault(one.buffer, access.index) == access.index)
        if not same:
            self._fail("FP827", f"must have {what}={';'.join(map(str, asked)) or '-'}")

    def _require_held(self, access: Access, spans: tuple[Span, ...]) -> None:
        for span in spans:
            found = self.memory.lack(access, span)
            if found is not None:
                there = "nothing" if found.value is NOBODY else str(found)
                self._fail("FP828", f"needs {span} in {access}, but at {found.lo}-{found.hi} there is {there}")

    def _fail(self, code: str, what: str) -> NoReturn:
        """The lines around a break, in the text form of the graph."""
        lines = [_spelled(task) for task in self.recent]
        lines[-1] += f"  <-- {what}"
        name = lines[-1].partition(" work=")[0]
        raise GraphError(code, f"{name:.200} {what}:\n" + "\n".join(lines), fix=_FIX)


def _place(sweep: Sweep) -> str:
    return f"sweep i={sweep.i}" if type(sweep.i) is int and abs(sweep.i) < _MOST_INDEX else "a sweep of no token"


def _immutable(tasks: Sequence[Task]) -> bool:
    """Whether tasks are what they will be when they run: tuples, text and numbers all the way down."""
    if not tasks or _types(tasks) != {Task}:
        return not tasks
    kinds, lanes, _, _, _, _, works, reads, writes = zip(*tasks, strict=True)
    if _types(works) != {Work} or _types(reads) | _types(writes) != {tuple}:
        return False
    accesses = [*chain.from_iterable(reads), *chain.from_iterable(writes)]
    if not _types(accesses) <= {Access}:
        return False
    return _types(kinds) | _types(lanes) | _types(access[0] for access in accesses) == {str}


def _types(found: Iterable[object]) -> set[type]:
    return set(map(type, found))


@contextmanager
def _lawful(where: str) -> Iterator[None]:
    """A law that does not hold is an error that says where."""
    try:
        yield
    except Broken as broken:
        raise GraphError("FP820", f"{where}: {broken}", fix=_FIX) from None


def _whole(access: Access) -> bool:
    """Whether an access has whole numbers."""
    _, index, lo, hi = access
    return type(index) is type(lo) is type(hi) is int and 0 <= index < _MOST_INDEX


def _countable(work: Work) -> bool:
    """Whether all of it is there, finite and none negative; no sum with a NaN in it is less than anything."""
    try:
        return len(work) == len(Work._fields) and min(work) >= 0 and sum(work) < _MOST_WORK
    except TypeError:
        return False


def _spelled(task: Task) -> str:
    """A task in the text form, as far as it has one: a number of five thousand digits has none."""
    try:
        return f"{task!s:.2000}"
    except (TypeError, ValueError, AttributeError) as error:
        return f"a task that cannot be spelled ({error!s:.100})"


# -- graphs --------------------------------------------------------------------------------------------------------
def proved(graph: TaskGraph, placement: Placement) -> TaskGraph:
    """The same graph, each sweep of which is proved before it is handed out; ``placement`` is `placement_of` it.

    Its buffers are the layout's own from now on: a stranger's may change.
    """

    def make(finished: Finished) -> Iterator[Sweep]:
        proof = Proof(placement)
        for sweep in graph.sweeps(finished):
            proof.sweep(sweep)
            yield sweep
        proof.finish(finished)

    return replace(graph, make=make, buffers=Layout.of(placement).buffers)


def prove(graph: TaskGraph, placement: Placement, most_sweeps: int | None = None) -> None:
    """Prove a whole graph, or its first sweeps; raises GraphError."""
    for n, _ in enumerate(proved(graph, placement).sweeps(), 1):
        if n == most_sweeps:
            return


def named_lines(graph: TaskGraph, placement: Placement) -> Iterator[str]:
    """A line a task with the values that it needs and makes: ``compute@gpu[i=0 j=1 k=0] hidden(...):0-64 -> ...``."""
    proof = Proof(placement)
    for sweep in graph.sweeps():
        for task, meaning in proof.named(sweep):
            yield f"{task.name} {_values(meaning.reads)} -> {_values(meaning.writes)}"


def _values(parts: Parts) -> str:
    return "; ".join(f"{p} = {' '.join(map(str, p.spans))}" for p in parts) or "-"
