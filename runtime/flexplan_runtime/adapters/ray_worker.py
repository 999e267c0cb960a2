"""A worker of a pool: one model, opened at its first batch, and the requests of each batch completed.

What becomes of requests goes back as data, errors too: Ray would run a batch that raised again, in the same engine.
"""

from __future__ import annotations

import pickle
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from flexplan.errors import FlexplanError
from flexplan.job import Completion, RunRequest, Standing
from flexplan.policy import Policy
from flexplan.problem.prompts import Prompt
from flexplan_runtime.commands.job import complete_job, tell_refused
from flexplan_runtime.commands.prepare import Ready, make_ready
from flexplan_runtime.commands.run import Watch, open_lm
from flexplan_runtime.generate import OffloadedLM

Part = Sequence[tuple[int, Prompt]]  # requests by their places
Telling = tuple[str, tuple[Any, ...]]  # what a `JobListener` is told, or "warned", "loaded" (seconds), "held", "broken"


class Worker:
    """Called by Ray Data with batches of parts; ``request`` is the job, without its prompts."""

    def __init__(self, request: RunRequest) -> None:
        self._request = request
        self._kept = ExitStack()
        self._lm: OffloadedLM | None = None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        told = [pickle.dumps(self.complete(pickle.loads(part))) for part in batch["part"]]
        return {"told": np.array(told, dtype=object)}

    def complete(self, part: Part) -> list[Telling]:
        """All that is to be told of these requests."""
        told = Told()
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = told.warned
            try:
                ready = make_ready(self._request_of(part))
                tell_refused(ready, told)
                if ready.requests:
                    self._run(ready, told)
            except Exception as error:
                told.note("broken", portable(error))
        return told.all

    def _run(self, ready: Ready, told: Told) -> None:
        lm = self._opened(ready, told)
        watch = Watch(lm, told)
        complete_job(ready, lm, watch, told)
        told.note("held", watch.peak_bytes)

    def _request_of(self, part: Part) -> RunRequest:
        prompts, places = tuple(prompt for _, prompt in part), tuple(place for place, _ in part)
        locked = self._request.locked and self._lm is None  # its files are read through once
        return replace(self._request, prompts=prompts, places=places, locked=locked)

    def _opened(self, ready: Ready, told: Told) -> OffloadedLM:
        if self._lm is None:
            began_s = time.perf_counter()
            self._lm = self._kept.enter_context(open_lm(ready))
            told.note("loaded", time.perf_counter() - began_s)
        return self._lm


class Told:
    """A `JobListener` that keeps what it is told."""

    def __init__(self) -> None:
        self.all: list[Telling] = []

    def note(self, what: str, *words: Any) -> None:
        """One more telling."""
        self.all.append((what, words))

    def stage(self, what: str) -> None:
        return

    def standing(self, now: Standing) -> None:
        return

    def tokens(self, done: int, total: int) -> None:
        return

    def begin(self, settings: Mapping[str, str]) -> None:
        return

    def ended(self, place: int, completion: Completion) -> None:
        self.note("ended", place, completion)

    def failed(self, place: int, completion: Completion, error: FlexplanError) -> None:
        self.note("failed", place, completion, error)

    def shrunk(self, policy: Policy) -> None:
        self.note("shrunk", policy)

    def stopping(self) -> bool:
        return False

    def warned(self, message: Warning | str, *where: Any, **more: Any) -> None:
        """In the place of `warnings.showwarning`."""
        self.note("warned", str(message))


def portable(error: Exception) -> Exception:
    """An error that another process can read: itself, or what it says."""
    try:
        found = pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return found if isinstance(found, type(error)) else RuntimeError(f"{type(error).__name__}: {error}")
