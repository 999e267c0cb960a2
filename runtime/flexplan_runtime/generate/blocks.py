"""Blocks of prompts: each planned to its very lengths, then given the state and the memory it runs in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from flexplan.errors import GraphError, PolicyError
from flexplan.graph import TaskGraph
from flexplan.hardware import Hardware, hardware_from
from flexplan.model import Ids
from flexplan.placement import Layout, Placement
from flexplan.problem import Expectation, Problem, Workload
from flexplan.proof import proved
from flexplan.sandbox import ThirdParty
from flexplan.schedule import Schedule, first_block, placement_of, rolls
from flexplan_runtime.execute import (
    BatchState,
    BlockPlan,
    BlockRun,
    BlockState,
    Penalties,
    Replays,
    Report,
    Row,
    Scoring,
    Trace,
    batch_states,
    penalties_of,
    seat_states,
)
from flexplan_runtime.generate.placed import PlacedModel, arena_sizes
from flexplan_runtime.generate.requests import Remembered
from flexplan_runtime.generate.rolling_run import RollingRun
from flexplan_runtime.kernels.availability import has_triton
from flexplan_runtime.memory import Arenas, BlockMemory

_NOTHING = Expectation()
_REMEMBERED = 4  # rows for each seat: who sits there, comes in or is about to be told of


@dataclass(frozen=True)
class Asked:
    """What all blocks of one call have in common."""

    pad_id: int
    trace: Trace = False
    scoring: Scoring | None = None  # instead of choosing tokens


class BlockPlanner:
    """Cuts rows into blocks, each with the graph of its very lengths, and of those that answers are likely to have."""

    def __init__(self, model: PlacedModel, schedule: Schedule, expected: Expectation = _NOTHING) -> None:
        self.model = model
        self.schedule = schedule
        self.expected = expected
        self.policy = model.policy  # whose blocks may become smaller than those that were asked for

    def plans(self, rows: Sequence[Row]) -> Iterator[BlockPlan]:
        """Block after block in input order; planned when it is asked for, as all of them would fill memory."""
        if rolls(self.schedule):
            if rows:
                yield self._plan(Remembered(rows, _REMEMBERED * self.policy.block_size), 0)
            return
        size = self.policy.block_size
        for first in range(0, len(rows), size):
            yield self._plan(rows[first : first + size], first)

    def _plan(self, rows: Sequence[Row], first: int) -> BlockPlan:
        shape, policy = self.model.shape, self.policy
        lens, gen_lens = tuple(len(row.prompt) for row in rows), tuple(row.most for row in rows)
        workload = Workload(
            prompt_lens=lens,
            gen_lens=gen_lens,
            expected_lens=self.expected.lens,
            expected_prompts=self.expected.prompts,
        )
        graph = self.schedule.build(Problem(model=shape, hardware=self._here(), workload=workload), policy)
        placement = placement_of(graph, shape, policy, first_block(self.schedule, workload, policy))
        return BlockPlan(rows, first, self._proved(graph, placement), placement)

    def _proved(self, graph: TaskGraph, placement: Placement) -> TaskGraph:
        """Sweep by sweep, before it runs, where the schedule is not one of those that the tests prove."""
        return proved(graph, placement) if isinstance(self.schedule, ThirdParty) else graph

    def _here(self) -> Hardware:
        """The budgets of the environment; a schedule reads nothing else of a machine."""
        return hardware_from().with_budget(**self.model.env.ledger.budgets)


class BlockRoom:
    """Where the blocks of a model run, one after the other: arenas for all but the weights, and the last block's state.

    A block of the same shape as the one before it takes over its state, with the steps that were captured on a device.
    """

    def __init__(self, model: PlacedModel) -> None:
        self.model = model
        self.env = model.env
        self.arenas = self._arenas({})
        self._last: tuple[object, BlockState, BlockMemory] | None = None

    def make_for(self, plans: Iterable[BlockPlan]) -> None:
        """Room for each of these blocks; that of the call before serves again if it is large enough."""
        sizes = arena_sizes((plan.placement for plan in plans), weights=False)
        if self.arenas.holds(sizes):
            return
        self.replace(sizes)
        try:
            self.arenas.lock(self.env.loading_threads, touch=True)
        except BaseException:
            self.replace()
            raise

    def replace(self, sizes: Mapping[str, int] | None = None) -> None:
        """Arenas of these sizes, none by default, instead of those that were."""
        self._last = None
        self.arenas.close()
        self.arenas = self._arenas(sizes or {})

    def close(self) -> None:
        """Give everything back."""
        self._last = None
        self.env.ledger.forget("cache", "act")
        self.arenas.close()

    @contextmanager
    def begun(self, plan: BlockPlan, asked: Asked, report: Report) -> Iterator[BlockRun]:
        """A block with its prompts in place and its lanes at work."""
        state, memory = self._state_of(plan, asked)
        kind = RollingRun if plan.placement.rolls else BlockRun
        run = kind(plan, state, memory, self.env, report, trace=asked.trace)
        try:
            with run.at_work():
                yield run
        finally:
            if run.stuck or self.arenas.busy or self.model.arenas.busy:
                self.replace()  # what may yet be written to is not used again

    # -- a block's state -----------------------------------------------------------------------------------------------
    def _state_of(self, plan: BlockPlan, asked: Asked) -> tuple[BlockState, BlockMemory]:
        """The last block's where this one is like it, else new."""
        if plan.placement.rolls:
            refuse_what_does_not_roll(self.model, scoring=asked.scoring is not None)
        batches, stops = self._batches(plan, asked), _stops_of_all(plan.rows)
        by_step = any(_chooses_by_step(row) for row in plan.rows)
        key = _likeness(plan, batches), stops, by_step
        if self._last is not None and self._last[0] == key:
            _, state, memory = self._last
            state.renew(batches)
            return state, memory
        if not self.arenas.holds(arena_sizes([plan.placement], weights=False)):
            message = f"schedule {plan.graph.schedule:.60} asks for more memory than when the block was planned"
            raise GraphError("FP831", message, fix="correct the schedule: equal problems get equal graphs")
        self.env.ledger.forget("cache", "act")
        self._last = None
        self.env.renew_workspace()  # with what its captured steps kept
        state = self._new_state(plan, batches, stops, asked.pad_id, by_step)
        memory = BlockMemory(Layout.of(plan.placement), self.model.arenas, self.arenas)
        self._last = (key, state, memory)
        return state, memory

    def _new_state(
        self, plan: BlockPlan, batches: list[BatchState], stops: Ids, pad_id: int, by_step: bool
    ) -> BlockState:
        model, env = self.model, self.env
        return BlockState(
            plan.placement,
            model.family,
            model.dtype,
            env.ledger,
            torch.tensor(stops, dtype=torch.int64, device=env.device),
            pad_id,
            batches,
            env.num_threads,
            Replays(plan.placement, by_step) if self._can_replay() else None,
        )

    def _batches(self, plan: BlockPlan, asked: Asked) -> list[BatchState]:
        if plan.placement.rolls:
            return seat_states(plan.placement, self.env.device)
        batches = batch_states(plan.placement, plan.rows, self.env.device, causal=self.model.math.causal)
        for batch, state in zip(plan.placement.block.batches, batches, strict=True):
            rows = [plan.rows[row] for row in batch.rows]
            state.penalties = None if asked.scoring else self._penalties(rows)
            state.scoring = asked.scoring
        return batches

    def _penalties(self, rows: Sequence[Row]) -> Penalties | None:
        """What the rules of a micro-batch's rows are to them."""
        if not any(row.rules.change_logits for row in rows):
            return None
        return penalties_of(rows, self.model.shape.vocab_size, self.env.device)

    def _can_replay(self) -> bool:
        """Steps can be captured where nothing in them asks the host."""
        if self.env.device.type != "cuda" or not has_triton():
            return False
        cut = [w for w in self.model.placement.weights if not w.unpacked_bytes]  # what is unpacked is whole again
        pieces = [p for w in cut for p in w.pieces if p.row_hi < p.tensor.rows]
        return not self.model.family.asks_the_host([(p.tensor.name, p.row_hi) for p in pieces])

    def _arenas(self, sizes: Mapping[str, int]) -> Arenas:
        return Arenas(sizes, self.env.ledger, self.env.device, self.env.offload_dir)


def refuse_what_does_not_roll(model: PlacedModel, *, scoring: bool) -> None:
    """Raise PolicyError for what a rolling schedule does not do for a model, by its name."""
    for wrong, what in (
        (scoring, "the scoring of tokens"),
        (not model.math.causal, "prompts that are read both ways"),
        (
            model.policy.room_percent and model.family.turns_by_length,
            f"room_percent {model.policy.room_percent:g} where positions turn by how long a prompt is",
        ),
    ):
        if wrong:
            message = f"the rolling schedule does not take {what}"
            raise PolicyError("FP219", message, fix="solve or run with the schedule zigzag")


def _chooses_by_step(row: Row) -> bool:
    """Draws and rules know which token they choose, and log-probabilities are kept by it."""
    return row.sampling.do_sample or row.rules.change_logits or row.logprobs is not None


def _stops_of_all(rows: Sequence[Row]) -> Ids:
    """Ids that end every row, so that those which have ended go on with padding; the host knows of all others."""
    of_all = rows[0].stop_ids
    for row in rows:
        of_all &= row.stop_ids
    return tuple(sorted(of_all))


def _likeness(plan: BlockPlan, batches: Sequence[BatchState]) -> object:
    """Equal for blocks that can take over from each other."""
    shapes = tuple((len(b.rows), b.prompt_mask is None) for b in batches)
    block = plan.placement.block
    return shapes, tuple(batch.prompt_len for batch in block.batches), block.gen_len, plan.graph.live
