"""Lanes: each runs its tasks in order; an edge across lanes is a token that one sets and the other waits for.

A lane is a thread.  On a CUDA device the lanes of the gpu and the link drive a stream each: their tokens
carry an event, another stream waits for it on the device, a host lane waits for it without stopping others.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from traceback import walk_tb
from types import FrameType
from typing import Any

import torch

from flexplan.errors import DeadlineExceeded
from flexplan.graph import CPU, DISK_READ, DISK_WRITE, HOST_COPY, KINDS, Task

HOST_LANES = frozenset((CPU, HOST_COPY, DISK_READ, DISK_WRITE))


def is_host_task(task: Task) -> bool:
    """True for a task that the host does itself, whatever lane it is on."""
    return task.kind in KINDS and KINDS[task.kind].lane in HOST_LANES


_POLL_S = 0.05  # how often a waiting thread looks for an error elsewhere
Work = Callable[[Task], None]


class Cancelled(Exception):
    """Another task failed first, or nobody wants this one any more."""


class Run:
    """What the lanes of one run share: the first error, and when a task last ended."""

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self.error: BaseException | None = None
        self.failed = False
        self.over = False  # what is queued is not to be done
        self.last_end = time.perf_counter()
        self._spare: list[Any] = []
        self._lock = threading.Lock()

    def fail(self, error: BaseException) -> None:
        """Keep the first error; it poisons the run."""
        with self._lock:
            if not self.failed:
                self.error, self.failed = error, True
        self.over = True

    def raise_error(self) -> None:
        """Raise the first error, if there was one, and forget it: it knows the frames that know us."""
        error, self.error = self.error, None
        if error is None:
            return
        led_to_it = error.__context__
        try:
            raise error
        finally:
            error.__context__ = led_to_it  # and not that we were cancelled, by which its keeper would keep our frames
            del error

    def end(self, unwanted: Sequence[Token]) -> None:
        """Leave what is queued undone; whoever waits for a task of it waits no more."""
        self.over = True
        for token in unwanted:
            token.issued.set()

    def timer(self) -> Any:
        """A CUDA event that nobody waits for; making one takes longer than recording it."""
        with suppress(IndexError):
            return self._spare.pop()
        return torch.cuda.Event(enable_timing=True)

    def spare(self, timer: Any) -> None:
        """It was read, and another task may have it."""
        self._spare.append(timer)

    def wait(self, event: threading.Event, what: str) -> None:
        """Wait for an event; raises Cancelled after an error elsewhere, DeadlineExceeded without progress."""
        while not event.wait(_POLL_S):
            if self.over:
                raise Cancelled
            stuck_s = time.perf_counter() - self.last_end
            if stuck_s > self.deadline_s:
                raise DeadlineExceeded(
                    "FP1001",
                    f"no task ended for {stuck_s:.0f} s, waiting for {what}",
                    fix="check the disk and the device",
                )
        if self.over:
            raise Cancelled


@dataclass(slots=True)
class Token:
    """The promise of one task: ``issued`` is set when it is done, or queued on its stream behind ``event``."""

    number: int
    task: Task
    issued: threading.Event = field(default_factory=threading.Event)
    event: Any = None
    start: Any = 0.0
    end: Any = 0.0
    timer: Any = None  # the start, where it is no other task's end


class Lane:
    """A thread that runs the tasks it is given in order, each after its tokens."""

    def __init__(
        self, name: str, run: Run, work: Work, num_threads: int, stream: Any = None, *, timed: bool = True
    ) -> None:
        self.name = name
        self.run = run
        self.work = work
        self.num_threads = num_threads
        self.timed = timed
        self.stream = stream  # None: the lane's work is done when its function returns
        self._last: Any = None  # the event behind what was queued last
        self.queued: queue.SimpleQueue[tuple[Token, Sequence[Token]] | Callable[[], None] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._main, name=f"flexplan-{name}", daemon=True)
        self.thread.start()

    def submit(self, token: Token, after: Sequence[Token]) -> None:
        """Queue a task."""
        self.queued.put((token, after))

    def prepare(self, work: Callable[[], None]) -> None:
        """Do this on the lane's thread and stream before its tasks; returns, or raises, when it is done."""
        done: Future[None] = Future()
        self.queued.put(partial(_run_for, done, work))
        done.result(self.run.deadline_s)

    def close(self) -> None:
        """End the thread after the tasks that are queued; a failed run skips them."""
        self.queued.put(None)
        self.thread.join(0.5 if self.run.failed else self.run.deadline_s)

    def _main(self) -> None:
        torch.set_num_threads(self.num_threads)  # a new thread does not inherit it
        with torch.inference_mode(), torch.cuda.stream(self.stream):
            while (work := self.queued.get()) is not None:
                if callable(work):
                    work()
                elif not self.run.over:
                    self._do(*work)
            if self.stream is not None and not self.run.failed:
                self.stream.synchronize()

    def _do(self, token: Token, after: Sequence[Token]) -> None:
        try:
            waits = [self._wait(other) for other in after]
            self._timed(token, at_once=not any(waits))
        except Cancelled:
            return
        except BaseException as error:  # whatever a worker raises is the caller's to see
            self.run.fail(error)
            return
        self.run.last_end = time.perf_counter()
        token.issued.set()

    def _timed(self, token: Token, *, at_once: bool) -> None:
        """Do the task; ``at_once``: the stream waits for no other before it."""
        if self.stream is None:
            token.start = time.perf_counter()
            self.work(token.task)
            token.end = time.perf_counter()
            return
        if is_host_task(token.task):
            self.stream.synchronize()  # an inline lane has no edges: its order is the only one
        if self.timed:
            self._start(token, at_once)
        self.work(token.task)
        token.end = token.event = torch.cuda.Event(enable_timing=self.timed, blocking=True)  # spinning costs a core
        token.event.record(self.stream)
        self._last = token.event

    def _start(self, token: Token, at_once: bool) -> None:
        """The end of the task before it where the stream goes from one to the other: each event holds it up."""
        if at_once and self._last is not None and not self._last.query():
            token.start = self._last
            return
        token.start = token.timer = self.run.timer()
        token.timer.record(self.stream)

    def _wait(self, other: Token) -> bool:
        """Wait until it is done, or on the device; True where the stream has to wait."""
        self.run.wait(other.issued, other.task.name)
        if other.event is None:
            return False
        if self.stream is None:
            other.event.synchronize()
            return False
        self.stream.wait_event(other.event)
        return True


def forget_frames(error: BaseException | None) -> None:
    """Clear the frames that have ended of an error and of those that led to it: they hold memory of the tiers.

    Whoever keeps the error would keep that memory, too, after the model is closed.  Callers of the frames are cleared
    as well: a lane's outermost one is in no traceback.
    """
    cleared: set[FrameType] = set()
    while error is not None:
        for frame, _ in walk_tb(error.__traceback__):
            caller: FrameType | None = frame
            while caller is not None and caller not in cleared:
                cleared.add(caller)
                with suppress(RuntimeError):  # it is still at work
                    caller.clear()
                caller = caller.f_back
        error = error.__cause__ or error.__context__


def _run_for(done: Future[None], work: Callable[[], None]) -> None:
    try:
        work()
    except BaseException as error:  # the caller waits for it
        done.set_exception(error)
    else:
        done.set_result(None)
