"""What a call of a model does, whatever it asks for: its turn, its blocks, smaller ones where memory gives out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from inspect import GEN_SUSPENDED, getgeneratorstate
from threading import get_ident
from weakref import WeakSet

from flexplan.errors import UsageError
from flexplan.graph import Timeline
from flexplan.job import Standing
from flexplan.policy import Policy
from flexplan.problem import Expectation
from flexplan.sandbox import graph_blame_of
from flexplan.schedule import Schedule
from flexplan_runtime.execute import BlockPlan, BlockRun, Report, Row, forget_frames
from flexplan_runtime.generate.blocks import Asked, BlockPlanner, BlockRoom
from flexplan_runtime.generate.loop import Done, Stopping, run_blocks
from flexplan_runtime.generate.placed import PlacedModel
from flexplan_runtime.generate.requests import Rows
from flexplan_runtime.generate.retreat import next_policy, stepping_back

Progress = Callable[[int, int], None]  # (tokens generated so far, tokens asked for)
BlockEnded = Callable[[Timeline], None]
Stepped = Callable[[Policy], None]


def never_stopping() -> bool:
    """A call that nobody ends early."""
    return False


class Calls:
    """The calls of a model, one at a time; ``timeline`` is that of the last block which ended.

    ``standing`` is how far the call that is under way was after its last pass.
    """

    def __init__(self, model: PlacedModel, schedule: Schedule, expected: Expectation) -> None:
        self.model = model
        self.env = model.env
        self.planner = BlockPlanner(model, schedule, expected)
        self.room = BlockRoom(model)
        self.timeline = Timeline()
        self.standing = Standing(0, 0, 0, 0, 0, 0)
        self._closed = False
        self._runs = WeakSet[Generator[Done | Timeline]]()  # those that somebody holds
        self._cut_off = WeakSet[Generator[Done | Timeline]]()  # by `close`, before their end
        self._thread = 0  # of the run that has the turn

    def run(
        self,
        rows: Rows,
        asked: Asked,
        progress: Progress | None,
        stopping: Stopping = never_stopping,
        stepped: Stepped = lambda policy: None,
    ) -> Generator[Done | Timeline]:
        """Block after block, in this call's turn: what ends in it, then its timeline."""
        run = self._run(rows, asked, progress, stopping, stepped)
        self._runs.add(run)
        return run

    def _run(
        self,
        rows: Rows,
        asked: Asked,
        progress: Progress | None,
        stopping: Stopping,
        stepped: Stepped,
    ) -> Generator[Done | Timeline]:
        told = _Told(progress, rows, self._note)

        def begin(plan: BlockPlan) -> AbstractContextManager[BlockRun]:
            return self.room.begun(plan, asked, told.of(plan))

        def attempt(left: Sequence[int]) -> Iterator[Done | Timeline]:
            part = told.begin(rows.part(left))
            self.room.make_for(self.planner.plans(part))
            # planned once more: all of a long call would fill memory
            for one in run_blocks(self.planner.plans(part), begin, stopping):
                if isinstance(one, Timeline):
                    self.timeline = one
                yield replace(one, index=left[one.index]) if isinstance(one, Done) else one

        def step_back(steps: int, why: str) -> None:
            self.room.replace()
            self.env.recover()
            self.planner.policy = next_policy(self.planner.policy, steps, why)
            stepped(self.planner.policy)

        with self._turn(), graph_blame_of(self.planner.schedule):
            yield from stepping_back(attempt, len(rows), step_back)

    def _note(self, now: Standing) -> None:
        self.standing = now

    def close(self, *, by_error: bool = False) -> None:
        """Give all memory and disk space back, after a call of another thread that is under way.

        An iterator that this thread has left unfinished ends here, ``by_error`` that of another model, too: whoever
        leaves a ``with`` by an error of their own may hold one still.
        """
        if self.env.turn.elsewhere:
            return  # a forked child: all of it is the parent's
        self._end_held()
        if by_error:
            self.env.turn.end_held()
        with self.env.turn.taken("close"):
            self._closed = True
            self.room.close()
            self.model.close()

    def _end_held(self) -> None:
        for run in list(self._runs):
            if getgeneratorstate(run) == GEN_SUSPENDED and self._thread == get_ident():
                self._cut_off.add(run)
                run.close()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """This call's turn in the environment; whoever keeps an error of it keeps no memory of the tiers."""
        with self.env.turn.taken("generate", self._end_held):
            _refuse_closed(self._closed)
            self._thread = get_ident()
            try:
                yield
            except BaseException as error:
                forget_frames(error)
                raise
            finally:
                self._thread = 0

    def answers(
        self, run: Generator[Done | Timeline], rows: Rows, block_ended: BlockEnded = lambda timeline: None
    ) -> Generator[Done]:
        """What has ended, counted as the caller counts, and each block's timeline to whom it is for."""
        with closing(run):
            for one in run:
                if isinstance(one, Timeline):
                    block_ended(one)
                else:
                    place, choice = rows.place(one.index)
                    yield replace(one, index=rows.number(place), choice=choice)
            _refuse_closed(run in self._cut_off)  # no end that looks like one


def _refuse_closed(closed: bool) -> None:
    if closed:
        raise UsageError("FP147", "the model is closed", fix="open it again, or generate before close()")


class _Told:
    """Tells the caller of each block's tokens, those of the blocks before counted in."""

    def __init__(self, progress: Progress | None, rows: Rows, note: Callable[[Standing], None]) -> None:
        self.progress, self.total = progress, rows.num_tokens if progress else 0
        self.before = 0
        self.note = note
        self.ended = self.last = Standing(0, 0, 0, 0, 0, 0)  # of all blocks before, and of the one under way

    def begin(self, rows: Sequence[Row]) -> Sequence[Row]:
        """All rows, or those that are left of them."""
        self.before = self.total - sum(row.most for row in rows) if self.before else 0
        return rows

    def of(self, plan: BlockPlan) -> Report:
        """What a block reports to."""
        before = self.before
        self.before += sum(row.most for row in plan.rows)
        self.ended, self.last = self._with_ended(self.last), self.last._replace(tokens=0, spared=0)

        def report(now: Standing) -> None:
            self.last = now
            self.note(self._with_ended(now))
            if self.progress:
                self.progress(before + now.tokens, self.total)

        return report

    def _with_ended(self, now: Standing) -> Standing:
        return now._replace(tokens=self.ended.tokens + now.tokens, spared=self.ended.spared + now.spared)
