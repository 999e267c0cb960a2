"""OffloadedLM: a language model whose tensors are spread over three tiers, as a policy says."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from flexplan.errors import UsageError
from flexplan.graph.timeline import Timeline
from flexplan.hardware.machine import Hardware, hardware_from
from flexplan.model.layers import Layer
from flexplan.model.token_rules import Ids
from flexplan.placement.layout import Layout
from flexplan.placement.placement import Placement
from flexplan.plan.plan import Plan
from flexplan.plugins import SCHEDULES, make
from flexplan.policy.blocks import fill_blocks, full_block
from flexplan.policy.policy import Policy
from flexplan.problem.problem import Problem, Workload
from flexplan.schedule.protocol import Schedule
from flexplan_runtime.execute.block import BlockState, batch_states
from flexplan_runtime.execute.block_run import BlockPlan, BlockRun, Report
from flexplan_runtime.execute.capture import Replays
from flexplan_runtime.execute.env import ExecutionEnv
from flexplan_runtime.execute.lanes import forget_frames
from flexplan_runtime.execute.penalties import Given, Penalties
from flexplan_runtime.execute.sampling import Sampling
from flexplan_runtime.execute.warm_up import prepare_steps
from flexplan_runtime.generate.prompts import (
    Stop,
    padded,
    refuse_bad_prompts,
    refuse_broken,
    rows_of,
    stop_ids_of,
)
from flexplan_runtime.kernels.availability import has_triton
from flexplan_runtime.memory.arenas import Arenas
from flexplan_runtime.memory.block_memory import BlockMemory
from flexplan_runtime.models.registry import family
from flexplan_runtime.weights.load import load_weights
from flexplan_runtime.weights.open import Config, dtype_of, open_model, refuse_other_model
from flexplan_runtime.weights.packed import read_packed
from flexplan_runtime.weights.packed_cache import PackedFiles

Progress = Callable[[int, int], None]  # (tokens generated so far, tokens asked for)


@dataclass(frozen=True)
class Generation:
    """New tokens of every prompt in the order of the input, each up to and with its stop token.

    ``broken``: for each prompt whose logits became NaN or infinite, how many tokens it has; all others are whole.
    ``timelines`` has each block's as measured: sums, and with ``trace=True`` every task.
    """

    tokens: list[list[int]]
    timelines: list[Timeline]
    broken: Mapping[int, int] = field(default_factory=dict)


class OffloadedLM:
    """``OffloadedLM("facebook/opt-30b", env, "weights/", policy)``: places the weights, then generates.

    ``config`` is a model's name or directory, or what `open_model` found; ``path`` is where its weights are, or will be downloaded to
    (``"_DUMMY_"``: random ones); ``policy`` is a Policy or a Plan.  ``packed_cache`` is a directory where packed
    weights are kept, so that a later opening need not quantise them.  Raises what cannot be run before it
    allocates: PolicyError, ModelFilesError, InfeasiblePlan.

    Calls from several threads, also to other models of the same environment, run one after the other; one from inside
    another (its ``progress``, a signal handler), from a forked process or after `close` is a UsageError.  After an
    error a model may be used again.
    """

    def __init__(
        self,
        config: Config,
        env: ExecutionEnv,
        path: str | Path,
        policy: Policy | Plan,
        *,
        schedule: str | Schedule | None = None,
        dtype: str | torch.dtype | None = None,
        seed: int = 0,
        packed_cache: str | Path | None = None,
    ) -> None:
        plan = policy if isinstance(policy, Plan) else None
        env.turn.refuse_other_process("OffloadedLM")
        self.env = env
        self._closed = False
        self.policy: Policy = policy.policy if isinstance(policy, Plan) else policy
        chosen = schedule or (plan.schedule if plan else "zigzag")
        self.schedule: Schedule = make(SCHEDULES, chosen) if isinstance(chosen, str) else chosen
        shape, self.math, reader = open_model(config, path, seed)
        if plan:
            refuse_other_model(plan.problem.model, shape)
        self.dtype = dtype_of(dtype, self.math)
        self.shape = shape.with_dtype(self.dtype.itemsize)
        self.family = family(self.shape, self.math)
        self._placement = Placement.of(self.shape, self.policy, full_block(Workload(gen_len=1), self.policy))
        sizes = _largest([self._placement], weights=True)
        self._weights = Arenas(sizes, env.ledger, env.device, env.offload_dir)
        self._work = Arenas({}, env.ledger, env.device, env.offload_dir)
        self._last_block: tuple[object, BlockState, BlockMemory] | None = None
        self.timeline = Timeline()
        try:
            packed = PackedFiles(Path(packed_cache).expanduser()).read if packed_cache else read_packed
            with ThreadPoolExecutor(1, "flexplan-prepare") as beside:
                prepared = beside.submit(prepare_steps, self.family, self.policy, self.dtype, env.device)
                load_weights(self._placement, self._weights, reader, self.dtype, env.loading_threads, packed)
                self._weights.lock(env.loading_threads, touch=False)
            prepared.result()
        except BaseException:
            self.close()
            raise

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of the schedule: N + 2, or 2N + 2 with ``sep_layer``."""
        return self._placement.layers

    def generate(
        self,
        input_ids: Tensor | Sequence[Sequence[int]],
        attention_mask: Tensor | None = None,
        *,
        max_new_tokens: int = 32,
        do_sample: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        stop: Stop = None,
        pad_token_id: int | None = None,
        progress: Progress | None = None,
        trace: bool = False,
    ) -> Tensor:
        """Token ids (rows, longest prompt + longest continuation), as ``transformers`` returns them.

        Rows are in the order of the input, padded on the left for shorter prompts and on the right after a
        row's stop.  ``stop``: None never stops, ``"model"`` stops at the checkpoint's end ids.  The rules of the
        checkpoint's generation config always hold; its temperature and its kin only with ``do_sample``, without which
        the likeliest token is taken.  Raises NoNumbers, which has all tokens, where a row's logits become NaN or
        infinite.  With ``trace`` the ``timeline`` keeps every task, not only their sums.
        """
        stops = stop_ids_of(stop, self.math)
        pad, ends = self.math.pad_token_id if pad_token_id is None else pad_token_id, self._end_ids(stops)
        prompts, given = rows_of(input_ids, attention_mask, None if pad in ends else pad)
        sampling = Sampling.of(self.math.rules, do_sample, temperature, top_k, top_p, seed)
        done = self.complete(
            prompts, max_new_tokens, sampling=sampling, stops=stops, progress=progress, given=given, trace=trace
        )
        refuse_broken(done.broken, done.tokens, self.dtype)
        return padded([row.ids for row in given], done.tokens, self._pad_id(pad_token_id, stops))

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int = 32,
        *,
        sampling: Sampling | None = None,
        stops: Sequence[int] = (),
        progress: Progress | None = None,
        given: Sequence[Given] | None = None,
        trace: bool = False,
    ) -> Generation:
        """The new tokens only; any number of prompts, block after block in the order of the input.

        ``given``: the prompts with the padding of their caller, which some rules of transformers look at.
        With ``trace`` the timelines keep every task: some 250 bytes each, of which a block has thousands.
        """
        if trace and not self.env.timed:
            raise UsageError("FP148", "trace=True in an environment with timed=False", fix="leave one of them out")
        refuse_bad_prompts(prompts, max_new_tokens, self.shape)
        asked = prompts, max_new_tokens, given
        total, chosen = len(prompts) * max_new_tokens, sampling or Sampling()
        with self._turn():
            self._make_room(_largest((plan.placement for plan in self._plan_blocks(*asked)), weights=False))
            blocks = [  # planned once more: the plans of a long job would fill memory
                self._complete_block(plan, chosen, stops, _report(plan, total, progress), trace)
                for plan in self._plan_blocks(*asked)
            ]
        if blocks:
            self.timeline = blocks[-1].timelines[-1]
        return _joined(blocks)

    def close(self) -> None:
        """Give all memory and disk space back, after a call of another thread that is under way."""
        if self.env.turn.elsewhere:
            return  # a forked child: all of it is the parent's
        with self.env.turn.taken("close"):
            self._closed = True
            self._last_block = None
            self.env.ledger.forget("w", "cache", "act")
            self._work.close()
            self._weights.close()
            if self.env.device.type != "cpu":
                gc.collect()  # a caught error's frames may still hold views of device memory

    def __enter__(self) -> OffloadedLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """This call's turn in the environment; whoever keeps an error of it keeps no memory of the tiers."""
        with self.env.turn.taken("generate"):
            if self._closed:
                raise UsageError("FP147", "the model is closed", fix="open it again, or generate before close()")
            try:
                yield
            except BaseException as error:
                forget_frames(error)
                raise

    # -- blocks ------------------------------------------------------------------------------------------------
    def _plan_blocks(
        self, prompts: Sequence[Sequence[int]], gen_len: int, given: Sequence[Given] | None = None
    ) -> Iterator[BlockPlan]:
        """Blocks in input order, each with the graph of its very lengths."""
        size, given = self.policy.block_size, given or [Given(prompt) for prompt in prompts]
        for first in range(0, len(prompts), size):
            yield self._plan_block(prompts[first : first + size], given[first : first + size], first, gen_len)

    def _plan_block(
        self, prompts: Sequence[Sequence[int]], given: Sequence[Given], first: int, gen_len: int
    ) -> BlockPlan:
        workload = Workload(prompt_lens=tuple(map(len, prompts)), gen_len=gen_len)
        graph = self.schedule.build(Problem(model=self.shape, hardware=self._here(), workload=workload), self.policy)
        block = next(fill_blocks(workload, self.policy))
        return BlockPlan(prompts, given, first, graph, Placement.of(self.shape, self.policy, block, graph.live))

    def _complete_block(
        self, plan: BlockPlan, sampling: Sampling, stops: Sequence[int], report: Report, trace: bool
    ) -> Generation:
        state, memory = self._block(plan, sampling, tuple(stops))
        run = BlockRun(plan, state, memory, self.env, report, trace=trace)
        try:
            timeline = run.run()
        finally:
            if run.stuck or self._work.busy or self._weights.busy:  # what may yet be written to is not used again
                self._replace_work()
        broken = {plan.first_row + row: place for row, place in run.broken.items()}
        return Generation(run.tokens, [timeline], broken)

    def _block(self, plan: BlockPlan, sampling: Sampling, stops: tuple[int, ...]) -> tuple[BlockState, BlockMemory]:
        """A block's state and memory; one of the same shape as the block before takes over its captured steps."""
        causal = self.math.causal
        batches = batch_states(plan.placement, plan.prompts, plan.first_row, self.env.device, causal=causal)
        for k, batch in enumerate(batches):
            batch.penalties = self._penalties(plan, k, stops)
        shapes = tuple((len(b.rows), b.prompt_mask is None) for b in batches)
        lens = tuple(batch.prompt_len for batch in plan.placement.block.batches)
        key = (shapes, lens, plan.placement.block.gen_len, plan.graph.live, sampling, stops)
        if self._last_block is not None and self._last_block[0] == key:
            _, state, memory = self._last_block
            for kept, new in zip(state.batches, batches, strict=True):
                kept.renew(new)
            state.noting = False
            return state, memory
        self.env.ledger.forget("cache", "act")
        self._last_block = None
        self.env.renew_workspace()  # with what its captured steps kept
        state = BlockState(
            plan.placement,
            self.family,
            self.dtype,
            self.env.ledger,
            sampling,
            torch.tensor(stops, dtype=torch.int64, device=self.env.device),
            self._pad_id(None, stops),
            batches,
            self.env.num_threads,
            Replays(plan.placement, self._chooses_by_step(sampling)) if self._replays() else None,
        )
        memory = BlockMemory(Layout.of(plan.placement), self._weights, self._work)
        self._last_block = (key, state, memory)
        return state, memory

    def _make_room(self, sizes: Mapping[str, int]) -> None:
        """Arenas for everything but the weights; those of the call before serve again if they are large enough."""
        if self._work.holds(sizes):
            return
        self._replace_work(sizes)
        try:
            self._work.lock(self.env.loading_threads, touch=True)
        except BaseException:
            self._replace_work()
            raise

    def _replace_work(self, sizes: Mapping[str, int] | None = None) -> None:
        """Arenas of these sizes, none by default, instead of those that were."""
        self._last_block = None
        self._work.close()
        self._work = Arenas(sizes or {}, self.env.ledger, self.env.device, self.env.offload_dir)

    def _penalties(self, plan: BlockPlan, k: int, stops: Ids) -> Penalties | None:
        """What the model's rules are to the rows of a micro-batch."""
        if not self.math.rules.change_logits:
            return None
        block = plan.placement.block
        given = [plan.given[row] for row in block.batches[k].rows]
        rules, ends = [self.math.rules] * len(given), self._end_ids(stops)
        return Penalties(rules, ends, given, block.gen_len, self.shape.vocab_size, self.env.device)

    def _end_ids(self, stops: Ids) -> Ids:
        """The ids that rules call the end, also where nothing stops there."""
        return stops or self.math.eos_token_ids

    def _replays(self) -> bool:
        """Steps can be captured where nothing in them asks the host: no counting of experts."""
        return self.env.device.type == "cuda" and has_triton() and not self.shape.num_experts

    def _chooses_by_step(self, sampling: Sampling) -> bool:
        """Draws and rules know which token they choose."""
        return sampling.do_sample or self.math.rules.change_logits

    def _here(self) -> Hardware:
        """The budgets of the environment; a schedule reads nothing else of a machine."""
        return hardware_from().with_budget(**self.env.ledger.budgets)

    def _pad_id(self, asked: int | None, stops: Sequence[int]) -> int:
        """What was asked for, or a token of the vocabulary that rows which have stopped go on with."""
        if asked is not None:
            return asked
        usual = (token for token in (self.math.pad_token_id, *stops) if token is not None)
        return next((token for token in usual if 0 <= token < self.shape.vocab_size), 0)

    def realised(self) -> Mapping[str, tuple[float, float, float]]:
        """Percent by tier (gpu, cpu, disk) of the weights, cache and activations that were really put there.

        Read off the environment's ledger; cache and activations are those of the last block's prompts.
        """
        stored = {what for what, _ in self.env.ledger.stored}
        return {what: self.env.ledger.shares(what) for what in ("w", "cache", "act") if what in stored}


def _report(plan: BlockPlan, total: int, progress: Progress | None) -> Report:
    """Tells the caller of a block's tokens, those of the blocks before counted in."""
    before = plan.first_row * plan.placement.block.gen_len
    return lambda n: progress(before + n, total) if progress else None


def _joined(blocks: Sequence[Generation]) -> Generation:
    """Block after block."""
    return Generation(
        [row for block in blocks for row in block.tokens],
        [timeline for block in blocks for timeline in block.timelines],
        {row: place for block in blocks for row, place in block.broken.items()},
    )


def _largest(placements: Iterable[Placement], *, weights: bool) -> dict[str, int]:
    """Bytes of each arena that is enough for every one of the placements."""
    sizes: dict[str, int] = {}
    for placement in placements:
        for name, nbytes in Layout.of(placement).arena_bytes.items():
            if name.endswith(".weights") == weights:
                sizes[name] = max(sizes.get(name, 0), nbytes)
    return sizes
