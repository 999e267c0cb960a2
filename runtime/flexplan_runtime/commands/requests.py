"""Requests of a job: their tokens and wishes kept small, each made when it is looked at."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial

from flexplan.errors import StorageError
from flexplan.job import RunRequest
from flexplan.model import TokenRules
from flexplan.problem.prompts import Prompt, Wishes
from flexplan.sequences import LazySequence
from flexplan_runtime.execute import Sampling
from flexplan_runtime.generate import Request

_MOST_IN_MEMORY = 64 << 20  # bytes of tokens: what is more goes to a file without a name
_MOST_KINDS = 10_000  # wishes that differ; those of further requests are read again in their lines


class TokenRuns(LazySequence[list[int]]):
    """Many lists of token ids, four bytes a token."""

    def __init__(self) -> None:
        self._ends = array("Q", [0])
        self._file = tempfile.SpooledTemporaryFile(_MOST_IN_MEMORY)  # noqa: SIM115 - gone with this
        self.lens = array("I")

    def add(self, tokens: Sequence[int]) -> None:
        """One more list."""
        try:
            self._file.seek(4 * self._ends[-1])
            self._file.write(array("I", tokens).tobytes())
        except OSError as error:
            message = f"the tokens of the prompts cannot be put aside in {tempfile.gettempdir()}: {error.strerror}"
            raise StorageError("FP630", message, fix="make room there, or set TMPDIR to where there is some") from error
        self._ends.append(self._ends[-1] + len(tokens))
        self.lens.append(len(tokens))

    def __len__(self) -> int:
        return len(self.lens)

    def made_at(self, at: int) -> list[int]:
        self._file.seek(4 * self._ends[at])
        return array("I", self._file.read(4 * self.lens[at])).tolist()


class Requests(LazySequence[Request]):
    """The requests of a job that can be run."""

    def __init__(self, job: RunRequest, prompts: Sequence[Prompt], rules: TokenRules) -> None:
        self.prompts = prompts
        self.ids = TokenRuns()
        self.at = array("Q")  # of each, its place among the prompts
        self._kinds: dict[Wishes, int] = {}
        self._which = array("I")
        self._wishes: list[Wishes] = []
        self._sampling = lru_cache(maxsize=256)(partial(_sampling, job, rules))

    def add(self, at: int, prompt: Prompt, ids: Sequence[int]) -> None:
        """One more; what `made` raises of it was looked at before."""
        kind = self._kinds.get(prompt.wishes, _MOST_KINDS)
        if kind == _MOST_KINDS and len(self._wishes) < _MOST_KINDS:
            kind = self._kinds[prompt.wishes] = len(self._wishes)
            self._wishes.append(prompt.wishes)
        self.at.append(at)
        self.ids.add(ids)
        self._which.append(kind)

    def made(self, ids: Sequence[int], wishes: Wishes) -> Request:
        """A request of these tokens; raises UsageError where the model's settings cannot be honoured with it."""
        return Request(
            ids,
            wishes.max_new_tokens,
            sampling=self._sampling(wishes.draws, wishes.temperature, wishes.top_p, wishes.top_k, wishes.min_p),
            seed=wishes.seed,
            n=wishes.n,
            stop=wishes.stop,
            stop_ids=wishes.stop_ids,
            logprobs=wishes.logprobs,
            repetition_penalty=wishes.repetition_penalty,
            presence_penalty=wishes.presence_penalty,
            frequency_penalty=wishes.frequency_penalty,
            logit_bias=dict(wishes.logit_bias),
        )

    def wishes(self, at: int) -> Wishes:
        """What a request asks for beside its prompt."""
        kind = self._which[at]
        return self._wishes[kind] if kind < _MOST_KINDS else self.prompts[self.at[at]].wishes

    def prompt(self, at: int) -> Prompt:
        """The prompt of a request, as it was given."""
        return self.prompts[self.at[at]]

    def __len__(self) -> int:
        return len(self.at)

    def made_at(self, at: int) -> Request:
        return self.made(self.ids[at], self.wishes(at))


def _sampling(
    job: RunRequest,
    rules: TokenRules,
    draws: bool | None,
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    min_p: float | None,
) -> Sampling | None:
    """A request's own before the flags' before the model's; None is as the job's."""
    if draws is None:
        return None
    if not draws:
        return Sampling(seed=job.seed)
    found = Sampling.of(
        rules,
        True,
        temperature or job.temperature,
        top_k or job.top_k,
        job.top_p if top_p is None else top_p,
        job.seed,
    )
    own = {"top_k": None} if top_k == 0 else {}
    return replace(found, **own if min_p is None else {**own, "min_p": min_p})
