"""OffloadedLM: a language model whose tensors are spread over three tiers, as a policy says."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from flexplan.blocks import fill_blocks, full_block
from flexplan.errors import UsageError
from flexplan.hardware import Hardware, hardware_from
from flexplan.layers import Layer
from flexplan.placement import Placement
from flexplan.plan import Plan
from flexplan.plugins import SCHEDULES, make
from flexplan.policy import Policy
from flexplan.prediction import Schedule
from flexplan.problem import Problem, Workload
from flexplan.timeline import Timeline
from flexplan_runtime.arenas import Arenas
from flexplan_runtime.blockrun import BlockPlan, BlockRun
from flexplan_runtime.compiler import has_triton
from flexplan_runtime.env import ExecutionEnv
from flexplan_runtime.job import Job, batch_states
from flexplan_runtime.lanes import forget_frames
from flexplan_runtime.loading import load_weights
from flexplan_runtime.models.families import family
from flexplan_runtime.opening import Config, dtype_of, open_model, refuse_other_model
from flexplan_runtime.packedfiles import PackedFiles
from flexplan_runtime.packedweights import read_packed
from flexplan_runtime.preparing import prepare_steps
from flexplan_runtime.prompts import Stop, padded, refuse_bad_prompts, rows_of, stop_ids_of
from flexplan_runtime.replay import Replays
from flexplan_runtime.sampling import Sampling

Progress = Callable[[int, int], None]  # (tokens generated so far, tokens asked for)


@dataclass(frozen=True)
class Generation:
    """New tokens of every prompt in the order of the input, each up to and with its stop token.

    And each block's measured timeline: sums, and with ``trace=True`` every task.
    """

    tokens: list[list[int]]
    timelines: list[Timeline]


class OffloadedLM:
    """``OffloadedLM("facebook/opt-30b", env, "weights/", policy)``: places the weights, then generates.

    ``config`` is a model's name or directory; ``path`` is where its weights are, or will be downloaded to
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
        self._last_job: tuple[object, Job] | None = None
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
        do_sample: bool = False,
        temperature: float = 1.0,
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
        row's stop.  ``stop``: None never stops, ``"model"`` stops at the checkpoint's end ids.
        With ``trace`` the ``timeline`` keeps every task, not only their sums.
        """
        prompts, stops = rows_of(input_ids, attention_mask), stop_ids_of(stop, self.math)
        sampling = Sampling(do_sample, temperature, top_k, top_p, seed)
        done = self.complete(prompts, max_new_tokens, sampling=sampling, stops=stops, progress=progress, trace=trace)
        return padded(prompts, done.tokens, self._pad_id(pad_token_id, stops))

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int = 32,
        *,
        sampling: Sampling | None = None,
        stops: Sequence[int] = (),
        progress: Progress | None = None,
        trace: bool = False,
    ) -> Generation:
        """The new tokens only; any number of prompts, block after block in the order of the input.

        With ``trace`` the timelines keep every task: some 250 bytes each, of which a block has thousands.
        """
        if trace and not self.env.timed:
            raise UsageError("FP148", "trace=True in an environment with timed=False", fix="leave one of them out")
        refuse_bad_prompts(prompts, max_new_tokens, self.shape)
        with self.env.turn.taken("generate"):
            self._refuse_closed()
            try:
                done = self._complete(prompts, max_new_tokens, sampling or Sampling(), stops, progress, trace)
            except BaseException as error:
                forget_frames(error)
                raise
        if done.timelines:
            self.timeline = done.timelines[-1]
        return done

    def _complete(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        sampling: Sampling,
        stops: Sequence[int],
        progress: Progress | None,
        trace: bool,
    ) -> Generation:
        self._make_room(
            _largest((plan.placement for plan in self._plan_blocks(prompts, max_new_tokens)), weights=False)
        )
        done = Generation([], [])
        for plan in self._plan_blocks(prompts, max_new_tokens):  # once more: those of a long job fill memory
            run = self._block_run(plan, sampling, stops, len(prompts) * max_new_tokens, progress, trace)
            try:
                done.timelines.append(run.run())
            finally:
                if run.stuck or self._work.busy or self._weights.busy:  # what may yet be written to is not used again
                    self._replace_work()
            done.tokens.extend(run.tokens)
        return done

    def close(self) -> None:
        """Give all memory and disk space back, after a call of another thread that is under way."""
        if self.env.turn.elsewhere:
            return  # a forked child: all of it is the parent's
        with self.env.turn.taken("close"):
            self._closed = True
            self._last_job = None
            self.env.ledger.forget("w", "cache", "act")
            self._work.close()
            self._weights.close()
            if self.env.device.type != "cpu":
                gc.collect()  # a caught error's frames may still hold views of device memory

    def _refuse_closed(self) -> None:
        if self._closed:
            raise UsageError("FP147", "the model is closed", fix="open it again, or generate before close()")

    def __enter__(self) -> OffloadedLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- blocks ------------------------------------------------------------------------------------------------
    def _plan_blocks(self, prompts: Sequence[Sequence[int]], gen_len: int) -> Iterator[BlockPlan]:
        """Blocks in input order, each with the graph of its very lengths."""
        size = self.policy.block_size
        for first in range(0, len(prompts), size):
            yield self._plan_block(prompts[first : first + size], first, gen_len)

    def _plan_block(self, prompts: Sequence[Sequence[int]], first: int, gen_len: int) -> BlockPlan:
        workload = Workload(prompt_lens=tuple(map(len, prompts)), gen_len=gen_len)
        graph = self.schedule.build(Problem(model=self.shape, hardware=self._here(), workload=workload), self.policy)
        block = next(fill_blocks(workload, self.policy))
        return BlockPlan(prompts, first, graph, Placement.of(self.shape, self.policy, block, graph.live))

    def _block_run(
        self,
        plan: BlockPlan,
        sampling: Sampling,
        stops: Sequence[int],
        total: int,
        progress: Progress | None,
        trace: bool,
    ) -> BlockRun:
        before = plan.first_row * plan.placement.block.gen_len
        job = self._job(plan, sampling, tuple(stops))
        report = (lambda n: progress(before + n, total)) if progress else (lambda n: None)
        return BlockRun(plan, job, self.env, report, trace=trace)

    def _job(self, plan: BlockPlan, sampling: Sampling, stops: tuple[int, ...]) -> Job:
        """The job of a block; a block of the same shape as the one before takes over its captured steps."""
        states = batch_states(plan.placement, plan.prompts, plan.first_row, self.env.device)
        shapes = tuple((len(s.rows), s.prompt_mask is None) for s in states)
        lens = tuple(batch.prompt_len for batch in plan.placement.block.batches)
        key = (shapes, lens, plan.placement.block.gen_len, plan.graph.live, sampling, stops)
        if self._last_job is not None and self._last_job[0] == key:
            job = self._last_job[1]
            for kept, new in zip(job.batches, states, strict=True):
                kept.renew(new)
            job.noting = False
            return job
        self.env.ledger.forget("cache", "act")
        self._last_job = None
        self.env.renew_workspace()  # with what its captured steps kept
        job = Job(
            plan.placement,
            self._weights,
            self._work,
            self.family,
            self.dtype,
            self.env.device,
            self.env.ledger,
            sampling,
            torch.tensor(stops, dtype=torch.int64, device=self.env.device),
            self._pad_id(None, stops),
            states,
            self.env.num_threads,
            Replays(plan.placement) if self._replays(sampling) else None,
        )
        self._last_job = (key, job)
        return job

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
        self._last_job = None
        self._work.close()
        self._work = Arenas(sizes or {}, self.env.ledger, self.env.device, self.env.offload_dir)

    def _replays(self, sampling: Sampling) -> bool:
        """Steps can be captured where nothing in them asks the host: no draws, no counting of experts."""
        return self.env.device.type == "cuda" and has_triton() and not sampling.do_sample and not self.shape.num_experts

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


def _largest(placements: Iterable[Placement], *, weights: bool) -> dict[str, int]:
    """Bytes of each arena that is enough for every one of the placements."""
    sizes: dict[str, int] = {}
    for placement in placements:
        for name, nbytes in placement.arena_bytes.items():
            if name.endswith(".weights") == weights:
                sizes[name] = max(sizes.get(name, 0), nbytes)
    return sizes
