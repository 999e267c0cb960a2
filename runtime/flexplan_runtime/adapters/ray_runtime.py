"""The runtime `ray`: a job of the command line whose blocks are spread over a fixed pool of workers.

Only this process writes: lines come as blocks end, in whichever order, and the job's log is the checkpoint.  So a job
that ran on a cluster is gone on with on one machine, and the other way round.
"""

from __future__ import annotations

import logging
import pickle
import queue
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.data

from flexplan.errors import DeadlineExceeded, FlexplanError, MemoryExhausted, UsageError
from flexplan.job import Cluster, Finding, JobListener, JobReport, RunRequest
from flexplan.model.places import directory_of
from flexplan_runtime.adapters.ray_cluster import (
    RESTARTS,
    START_S,
    Pool,
    connected,
    mapped,
    nodes,
    pool_of,
    taken_by_others,
)
from flexplan_runtime.adapters.ray_worker import Part, Telling, Worker
from flexplan_runtime.commands.entry import TorchRuntime
from flexplan_runtime.commands.job import begin_job
from flexplan_runtime.commands.prepare import Ready, make_ready

_LOOK_EVERY_S = 0.2  # for a signal


class RayRuntime(TorchRuntime):
    """Runs on a cluster; all else is done here."""

    def run(self, request: RunRequest, listener: JobListener) -> JobReport:
        """Every prompt's completion to the listener, when its block has ended."""
        _refuse(request)
        ready = make_ready(replace(request, device="cpu"), runs_here=False)
        cluster = request.cluster or Cluster()
        with connected(cluster.address):
            pool = pool_of(nodes(), cluster.workers, request.device)
            begin_job(ready, listener)
            parts = _parts(ready, request)
            if not parts:
                return JobReport(0, 0, 0, 0.0, 0.0, {})
            pool = replace(pool, size=min(pool.size, len(parts)))
            return _Run(ready, listener).over(parts, _as_seen_from_there(request), pool)

    def examine(self) -> tuple[Finding, ...]:
        """Ray itself."""
        return (Finding("ray", "ok", f"{ray.__version__}, for run --ray"),)


def _refuse(request: RunRequest) -> None:
    if not request.prompts:
        raise UsageError("FP156", "--ray without --prompts", fix="give --prompts FILE, or leave --ray out")
    if request.record:
        fix = "leave one of them out: a recording is of one process"
        raise UsageError("FP137", "--record with --ray", fix=fix)
    if request.device not in (None, "cpu", "cuda"):
        message = f"--device {request.device} with --ray: which GPU a worker has is Ray's choice"
        raise UsageError("FP157", message, fix="give --device cuda or cpu, or leave it out")


def _as_seen_from_there(request: RunRequest) -> RunRequest:
    """Without the prompts, with whole paths: a worker's directory is another one."""
    local = directory_of(Path(request.model).expanduser())
    return replace(
        request,
        prompts=(),
        places=(),
        skip=frozenset(),
        model=str(local.absolute()) if local.is_dir() else request.model,
        offload_dir=request.offload_dir.expanduser().absolute(),
        packed_cache=request.packed_cache and request.packed_cache.expanduser().absolute(),
    )


def _parts(ready: Ready, request: RunRequest) -> list[bytes]:
    """The requests that are to be run, a block each, on their way to a worker."""
    at = {place: n for n, place in enumerate(request.places or range(len(request.prompts)))}
    rows, places = ready.policy.block_size, ready.places
    cut = (places[first : first + rows] for first in range(0, len(places), rows))
    parts: Iterator[Part] = ([(place, request.prompts[at[place]]) for place in some] for some in cut)
    return [pickle.dumps(part) for part in parts]


class _Run:
    """One job in the workers of a pool, and what is known of it here."""

    def __init__(self, ready: Ready, listener: JobListener) -> None:
        self.listener = listener
        self.total = len(ready.places)
        self.most_tokens = self.total * ready.most
        self.prompts = self.tokens = 0
        self.peak_bytes: Counter[str] = Counter()
        self._warned = set[str]()
        self.load_s = 0.0
        self._over = threading.Event()
        self._came: queue.SimpleQueue[list[Telling] | BaseException | None] = queue.SimpleQueue()

    def over(self, parts: list[bytes], request: RunRequest, pool: Pool) -> JobReport:
        """Until all parts are done, or the listener says to stop: what is under way then is given up."""
        began_s = time.monotonic()
        if lacking := taken_by_others(pool):
            warnings.warn(
                f"the cluster has {lacking} free: waiting for other jobs, {START_S:.0f} s at most", stacklevel=2
            )
        self.listener.stage(f"generating with {pool.size} workers, {pool.cpus} CPUs and {pool.gpus} GPUs each")
        threading.Thread(target=self._receive, args=(_told(parts, request, pool),), daemon=True).start()
        try:
            while (came := self._next()) is not None and not self.listener.stopping():
                for what, words in came:
                    self._tell(what, words)
                if self.prompts:
                    self.listener.tokens(self.tokens, self.most_tokens)
        finally:
            self._over.set()
        left, run_s = self.total - self.prompts, time.monotonic() - began_s
        return JobReport(self.prompts, self.tokens, left, self.load_s, run_s, dict(self.peak_bytes))

    def _receive(self, dataset: Any) -> None:
        """In a thread of its own: a call into Ray hears no signal."""
        try:
            for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0):  # as they end
                came = [telling for told in batch["told"] for telling in pickle.loads(told)]
                self._came.put(came)
                if self._over.is_set() or any(what == "broken" for what, _ in came):
                    return  # which ends the workers
            self._came.put(None)
        except BaseException as error:
            self._came.put(error)

    def _next(self) -> list[Telling] | None:
        """What has come, nothing after a while, None at the end."""
        try:
            came = self._came.get(timeout=_LOOK_EVERY_S)
        except queue.Empty:
            return []
        if isinstance(came, BaseException):
            raise _in_words(came) from came
        return came

    def _tell(self, what: str, words: tuple[Any, ...]) -> None:
        if what == "broken":
            raise words[0]
        if what == "loaded":
            self.load_s = max(self.load_s, words[0])
        elif what == "held":
            self.peak_bytes |= Counter(words[0])
        elif what == "warned":
            if words[0] not in self._warned:  # each worker says it
                self._warned.add(words[0])
                warnings.warn(words[0], stacklevel=2)
        else:
            getattr(self.listener, what)(*words)
        if what in ("ended", "failed"):
            self.prompts += 1
            self.tokens += words[1].num_tokens


def _told(parts: list[bytes], request: RunRequest, pool: Pool) -> Any:
    """A Dataset of what the workers tell: a part a block, and a block a call, as Ray would merge what is small."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
    return mapped(dataset, Worker, (request,), pool, 1)


def _in_words(error: BaseException) -> FlexplanError:
    """What Ray says, as an error of ours."""
    text = str(error).strip()
    what = next((line for line in reversed(text.splitlines()) if line.strip()), type(error).__name__)[:300]
    if isinstance(error, ray.exceptions.GetTimeoutError) or "Timed out while starting actors" in text:
        message = f"the workers have not started within {START_S:.0f} s: other jobs have what they need"
        return DeadlineExceeded("FP1002", message, fix="wait for those, or lower --workers")
    message = f"a worker ended without a word, {RESTARTS + 1} times, most likely for memory: {what}"
    return MemoryExhausted("FP705", message, fix="lower the budgets, --workers on one machine, or the policy's block")
