"""Blocks of prompts: each planned to its very lengths, then given the state and the memory it runs in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from flexplan.apart import Foreign
from flexplan.errors import GraphError, PolicyError
from flexplan.graph import TaskGraph
from flexplan.hardware import Hardware, hardware_from
from flexplan.model import Ids
from flexplan.placement import Layout, Placement
from flexplan.problem import Problem, Workload
from flexplan.proof import placement_of, proved
from flexplan.schedule import Schedule, first_block, rolls
from flexplan_runtime.execute import (
    BatchState,
    BlockPlan,
    BlockRun,
    BlockState,
    Given,
    Penalties,
    Replays,
    Report,
    Sampling,
    Scoring,
    Trace,
    batch_states,
    seat_states,
)
from flexplan_runtime.generate.placed import PlacedModel, arena_sizes
from flexplan_runtime.generate.rolling_run import RollingRun
from flexplan_runtime.kernels.availability import has_triton
from flexplan_runtime.memory import Arenas, BlockMemory


@dataclass(frozen=True)
class Asked:
    """What all blocks of one call have in common."""

    sampling: Sampling
    stops: Ids
    pad_id: int
    trace: Trace = False
    numbers: Sequence[int] = ()  # of each prompt, its place in the caller's input; none: as they come
    scoring: Scoring | None = None  # instead of choosing tokens

    def numbers_of(self, plan: BlockPlan) -> Sequence[int]:
        """Those of a block's rows."""
        rows = range(plan.first_row, plan.first_row + len(plan.prompts))
        return self.numbers[rows.start : rows.stop] if self.numbers else rows


class BlockPlanner:
    """Cuts prompts into blocks, each with the graph of its very lengths."""

    def __init__(self, model: PlacedModel, schedule: Schedule) -> None:
        self.model = model
        self.schedule = schedule
        self.policy = model.policy  # whose blocks may become smaller than those that were asked for

    def plans(
        self, prompts: Sequence[Sequence[int]], new_tokens: Sequence[int], given: Sequence[Given] | None = None
    ) -> Iterator[BlockPlan]:
        """Block after block in input order; planned when it is asked for, as all of them would fill memory."""
        size, given = self.policy.block_size, given or [Given(prompt) for prompt in prompts]
        if rolls(self.schedule):  # all of them, one behind the other
            size = max(1, len(prompts))
        for first in range(0, len(prompts), size):
            rows = slice(first, first + size)
            yield self._plan(prompts[rows], given[rows], first, new_tokens[rows])

    def _plan(
        self, prompts: Sequence[Sequence[int]], given: Sequence[Given], first: int, new_tokens: Sequence[int]
    ) -> BlockPlan:
        shape, policy = self.model.shape, self.policy
        workload = Workload(prompt_lens=tuple(map(len, prompts)), gen_lens=tuple(new_tokens))
        graph = self.schedule.build(Problem(model=shape, hardware=self._here(), workload=workload), policy)
        placement = placement_of(graph, shape, policy, first_block(self.schedule, workload, policy))
        return BlockPlan(prompts, given, new_tokens, first, self._proved(graph, placement), placement)

    def _proved(self, graph: TaskGraph, placement: Placement) -> TaskGraph:
        """Sweep by sweep, before it runs, where the schedule is not one of those that the tests prove."""
        return proved(graph, placement) if isinstance(self.schedule, Foreign) else graph

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
    def begun(self, plan: BlockPlan, asked: Asked, report: Report) -> Iterator[BlockRun | RollingRun]:
        """A block with its prompts in place and its lanes at work."""
        state, memory = self._state_of(plan, asked)
        run: BlockRun | RollingRun
        if plan.placement.rolls:
            numbers = asked.numbers_of(plan)
            run = RollingRun(plan, state, memory, self.env, report, numbers=numbers, trace=asked.trace)
        else:
            run = BlockRun(plan, state, memory, self.env, report, trace=asked.trace)
        try:
            with run.at_work():
                yield run
        finally:
            if run.stuck or self.arenas.busy or self.model.arenas.busy:
                self.replace()  # what may yet be written to is not used again

    # -- a block's state -----------------------------------------------------------------------------------------------
    def _state_of(self, plan: BlockPlan, asked: Asked) -> tuple[BlockState, BlockMemory]:
        """The last block's where this one is like it, else new."""
        batches = self._batches(plan, asked)
        key = _likeness(plan, batches, asked)
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
        state = self._new_state(plan, batches, asked)
        memory = BlockMemory(Layout.of(plan.placement), self.model.arenas, self.arenas)
        self._last = (key, state, memory)
        return state, memory

    def _new_state(self, plan: BlockPlan, batches: list[BatchState], asked: Asked) -> BlockState:
        model, env = self.model, self.env
        return BlockState(
            plan.placement,
            model.family,
            model.dtype,
            env.ledger,
            asked.sampling,
            torch.tensor(asked.stops, dtype=torch.int64, device=env.device),
            asked.pad_id,
            batches,
            env.num_threads,
            Replays(plan.placement, self._chooses_by_step(asked.sampling)) if self._can_replay() else None,
        )

    def _batches(self, plan: BlockPlan, asked: Asked) -> list[BatchState]:
        if plan.placement.rolls:
            self._refuse_rules(asked)
            return seat_states(plan.placement, self.env.device)
        causal = self.model.math.causal
        batches = batch_states(plan.placement, plan.prompts, asked.numbers_of(plan), self.env.device, causal=causal)
        for k, batch in enumerate(batches):
            batch.penalties = None if asked.scoring else self._penalties(plan, k, asked.stops)
            batch.scoring = asked.scoring
        return batches

    def _refuse_rules(self, asked: Asked) -> None:
        """Raise PolicyError for what a rolling schedule does not do for a model or a call."""
        if asked.scoring:
            raise PolicyError("FP217", "the rolling schedule does not score tokens", fix="take the schedule zigzag")
        if self.model.math.rules.change_logits:
            message = "the rolling schedule does not take the rules of the model's generation config that change logits"
            raise PolicyError("FP217", message, fix="take the schedule zigzag")
        if not self.model.family.rule(0, self.env.device).is_plain or self.model.shape.windows:
            message = "the rolling schedule does not take attention with windows, caps, sinks or slopes"
            raise PolicyError("FP217", message, fix="take the schedule zigzag")
        if not self.model.math.causal:
            message = "the rolling schedule does not take prompts that are read both ways"
            raise PolicyError("FP217", message, fix="take the schedule zigzag")

    def _penalties(self, plan: BlockPlan, k: int, stops: Ids) -> Penalties | None:
        """What the model's rules are to the rows of a micro-batch."""
        math = self.model.math
        if not math.rules.change_logits:
            return None
        block = plan.placement.block
        given = [plan.given[row] for row in block.batches[k].rows]
        rules, ends = [math.rules] * len(given), stops or math.eos_token_ids
        return Penalties(rules, ends, given, block.gen_len, self.model.shape.vocab_size, self.env.device)

    def _can_replay(self) -> bool:
        """Steps can be captured where nothing in them asks the host."""
        if self.env.device.type != "cuda" or not has_triton():
            return False
        whole = self.model.policy.compress_weight  # as they are unpacked
        pieces = [p for w in self.model.placement.weights for p in w.pieces if p.row_hi < p.tensor.rows and not whole]
        return not self.model.family.asks_the_host([(p.tensor.name, p.row_hi) for p in pieces])

    def _chooses_by_step(self, sampling: Sampling) -> bool:
        """Draws and rules know which token they choose."""
        return sampling.do_sample or self.model.math.rules.change_logits

    def _arenas(self, sizes: Mapping[str, int]) -> Arenas:
        return Arenas(sizes, self.env.ledger, self.env.device, self.env.offload_dir)


def _likeness(plan: BlockPlan, batches: Sequence[BatchState], asked: Asked) -> object:
    """Equal for blocks that can take over from each other."""
    shapes = tuple((len(b.rows), b.prompt_mask is None) for b in batches)
    block = plan.placement.block
    lens = tuple(batch.prompt_len for batch in block.batches)
    return shapes, lens, block.gen_len, plan.graph.live, asked.sampling, asked.stops
