"""OffloadedLM: a language model whose tensors are spread over three tiers, as a policy says."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from flexplan.errors import UsageError
from flexplan.graph import Timeline
from flexplan.job import Standing, refuse_idle_packed_cache
from flexplan.model import Ids, Layer
from flexplan.plan import Plan
from flexplan.policy import Policy
from flexplan.problem import Expectation
from flexplan.sandbox import schedule_of
from flexplan.schedule import Schedule
from flexplan_runtime.execute import ExecutionEnv, Given, Sampling, Scoring, Trace
from flexplan_runtime.generate.arguments import refuse_no_list, refuse_wrong_kinds
from flexplan_runtime.generate.blocks import Asked
from flexplan_runtime.generate.calls import BlockEnded, Calls, Progress, Stepped, never_stopping
from flexplan_runtime.generate.loop import Done, Generation, Stopping, joined
from flexplan_runtime.generate.placed import PlacedModel
from flexplan_runtime.generate.prompts import (
    Stop,
    padded,
    refuse_bad_requests,
    refuse_broken,
    rows_of,
    stop_ids_of,
)
from flexplan_runtime.generate.requests import Request, Rows, Usual, each_with, refuse_bad_numbers
from flexplan_runtime.generate.scores import Score, refuse_broken_scores, rows_to_score
from flexplan_runtime.generate.stops import watching
from flexplan_runtime.generate.tokenizer import Tokenizer
from flexplan_runtime.weights import Config, dtype_of, open_model, refuse_other_model


class OffloadedLM:
    """``OffloadedLM("facebook/opt-30b", env, "weights/", policy)``: places the weights, then generates.

    ``config`` is a model's name or directory, or what `open_model` found; ``path`` is where its weights are, or will be
    downloaded to (``"_DUMMY_"``: random ones); ``policy`` is a Policy or a Plan.  ``packed_cache`` is a directory
    where packed weights are kept, so that a later opening need not quantise them.  ``expected`` is how long answers are
    likely to be (`flexplan.problem.expectation_of`), None what the plan expects.  Raises what cannot be run before it
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
        expected: Expectation | None = None,
    ) -> None:
        plan = policy if isinstance(policy, Plan) else None
        env.turn.refuse_other_process("OffloadedLM")
        self.env = env
        self.policy: Policy = policy.policy if isinstance(policy, Plan) else policy
        refuse_idle_packed_cache(self.policy, packed_cache)
        chosen = schedule or (plan.schedule if plan else "zigzag")
        self.schedule = schedule_of(chosen)
        opened = open_model(config, path, seed)
        if plan:
            refuse_other_model(plan.problem.model, opened.shape)
        self.math = opened.math
        self.dtype = dtype_of(dtype, opened.math)
        self._model = PlacedModel(opened, self.policy, env, self.dtype, packed_cache)
        self.shape, self.family = self._model.shape, self._model.family
        if expected is None:
            expected = plan.problem.workload.expected if plan else Expectation()
        self._calls = Calls(self._model, self.schedule, expected)

    @property
    def timeline(self) -> Timeline:
        """What the last block did, and when."""
        return self._calls.timeline

    @property
    def standing(self) -> Standing:
        """How far the call that is under way was after its last pass."""
        return self._calls.standing

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of the schedule: N + 2, or 2N + 2 with ``sep_layer``."""
        return self._model.placement.layers

    def generate(
        self,
        input_ids: Tensor | Sequence[Sequence[int]],
        attention_mask: Tensor | None = None,
        *,
        max_new_tokens: int | Sequence[int] = 32,
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

        Rows are in the order of the input, padded on the left for shorter prompts and on the right after a row's end:
        its stop, or its own number where ``max_new_tokens`` has one for each.  ``stop``: None never stops, ``"model"``
        stops at the checkpoint's end ids.  The rules of the checkpoint's generation config always hold; its temperature
        and its kin only with ``do_sample``, without which the likeliest token is taken.  Raises NoNumbers, which has
        all tokens, where a row's logits become NaN or infinite.  With ``trace`` the ``timeline`` keeps every task, not
        only their sums.
        """
        refuse_wrong_kinds(do_sample=do_sample, pad_token_id=pad_token_id)
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
        prompts: Sequence[Sequence[int] | Request],
        max_new_tokens: int | Sequence[int] = 32,
        *,
        sampling: Sampling | None = None,
        stops: Sequence[int] = (),
        progress: Progress | None = None,
        given: Sequence[Given] | None = None,
        trace: Trace = False,
    ) -> Generation:
        """The new tokens only; any number of prompts, block after block in the order of the input.

        ``given``: the prompts with the padding of their caller, which some rules of transformers look at.
        With ``trace`` the timelines keep every task, or those of some tokens: some 250 bytes each, of which a block has
        thousands.
        """
        refuse_wrong_kinds(sampling=sampling, stops=stops, progress=progress, given=given, trace=trace)
        refuse_no_list(prompts, "prompts")
        self._refuse_untimed(trace)
        requests, most = each_with(prompts, max_new_tokens)
        sampling = sampling or Sampling()
        refuse_bad_requests(requests, most, self.shape, sampling, can_watch=False, called="prompt")
        usual = Usual(most, sampling, tuple(stops), self.math)
        return joined(self._calls.run(Rows(requests, usual, given=given), self._asked(stops, trace), progress))

    def stream(
        self,
        requests: Sequence[Sequence[int] | Request],
        max_new_tokens: int | Sequence[int] = 32,
        *,
        sampling: Sampling | None = None,
        stops: Sequence[int] = (),
        numbers: Sequence[int] = (),
        tokenizer: Tokenizer | None = None,
        progress: Progress | None = None,
        stopping: Stopping = never_stopping,
        stepped: Stepped = lambda policy: None,
        trace: Trace = False,
        block_ended: BlockEnded = lambda timeline: None,
    ) -> Generator[Done]:
        """Each answer the moment it has ended, in the order in which they end: ``for done in lm.stream(requests)``.

        A request is a prompt in token ids, or a `Request`, which may ask for settings, stops and log-probabilities of
        its own, and for several answers: each comes by itself, `Done.choice` counts them.  ``numbers``: the requests'
        places in a longer input that they are part of; draws depend on them, and `Done.index` is one of them.
        ``tokenizer`` is for requests that end at texts.  ``stopping`` is asked after each pass: once it is true the
        pass in flight is finished, and answers that have not ended are left out.  Until the iterator is used up or
        closed it has the environment's turn: other threads' calls wait, and one from inside its loop is refused.
        Passes go on only while it is asked.  ``stepped`` is told the policy that the model goes on with where memory
        gave out and blocks became smaller; ``block_ended`` each block's timeline, which has the tasks that ``trace``
        asks for.  Raises what `complete` raises, requests that are refused at once.
        """
        refuse_wrong_kinds(sampling=sampling, stops=stops, numbers=numbers, tokenizer=tokenizer, progress=progress)
        refuse_wrong_kinds(stopping=stopping, stepped=stepped, trace=trace, block_ended=block_ended)
        refuse_no_list(requests)
        self._refuse_untimed(trace)
        watch = None if tokenizer is None else partial(watching, tokenizer)
        requests, most = each_with(requests, max_new_tokens)
        sampling = sampling or Sampling()
        refuse_bad_requests(requests, most, self.shape, sampling, can_watch=watch is not None)
        refuse_bad_numbers(numbers, len(requests))
        usual = Usual(most, sampling, tuple(stops), self.math, watch)
        rows = Rows(requests, usual, numbers)
        run = self._calls.run(rows, self._asked(stops, trace), progress, stopping, stepped)
        return self._calls.answers(run, rows, block_ended)

    def score(
        self,
        sequences: Sequence[Sequence[int]],
        starts: Sequence[int] | None = None,
        *,
        progress: Progress | None = None,
    ) -> list[Score]:
        """How likely given tokens are, in the order of the input: ``lm.score([prompt + answer], [len(prompt)])``.

        ``starts``: of each sequence, the first token that is scored; 1 without them, as before token 0 there is
        nothing.  One pass over the prompts, block after block; no more logits are held than a block has workspace for,
        and sequences that differ in their last token alone are run once.  A plan is best made for ``gen_len=1``.
        Raises PromptError for what cannot be scored, and NoNumbers where logits become NaN or infinite.
        """
        found = sorted(self.stream_scores(sequences, starts, progress=progress), key=lambda score: score.index)
        refuse_broken_scores(found, str(self.dtype).removeprefix("torch."))
        return found

    def stream_scores(
        self,
        sequences: Sequence[Sequence[int]],
        starts: Sequence[int] | None = None,
        *,
        progress: Progress | None = None,
        stopping: Stopping = never_stopping,
    ) -> Generator[Score]:
        """The same, each when its block has ended; its turn and ``stopping`` are those of `stream`.

        Where logits become NaN or infinite, so do the figures (`Score.broken`).
        """
        refuse_wrong_kinds(starts=starts, progress=progress, stopping=stopping)
        refuse_no_list(sequences, "sequences")
        given = rows_to_score(sequences, starts, self.shape)
        scoring, rows = Scoring(given.wanted), Rows(given.prompts, Usual(1, Sampling(), (), self.math))
        ended = self._calls.answers(self._calls.run(rows, Asked(0, scoring=scoring), progress, stopping), rows)
        return (score for done in ended for score in given.scores(done.index, scoring.found.pop(done.index)))

    def _asked(self, stops: Sequence[int], trace: Trace = False) -> Asked:
        return Asked(self._pad_id(None, stops), trace)

    def _refuse_untimed(self, trace: Trace) -> None:
        if trace and not self.env.timed:
            raise UsageError("FP148", "trace=True in an environment with timed=False", fix="leave one of them out")

    def close(self) -> None:
        """Give all memory and disk space back, after a call of another thread that is under way.

        An iterator that this thread has not used up ends, and raises UsageError when it is asked again.
        """
        self._calls.close()

    def __enter__(self) -> OffloadedLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._calls.close(by_error=error is not None)

    def _end_ids(self, stops: Ids) -> Ids:
        """The ids that rules call the end, also where nothing stops there."""
        return stops or self.math.eos_token_ids

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
