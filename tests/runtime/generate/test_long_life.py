"""A model that lives long: calls of many threads, memory that does not grow, errors that hold nothing."""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flexplan_runtime import ExecutionEnv, OffloadedLM
from flexplan_runtime.execute import pacing
from policies import opened

from flexplan.errors import StorageError, UsageError
from flexplan.policy import Policy
from flexplan.testing import policy_with

SPREAD = policy_with(2, 2, w=(20.0, 40.0), cache=(20.0, 40.0), act=(20.0, 40.0))  # every tensor over all three tiers
CALLS = 100
PROMPTS = [[[2, 100 + n, 200 + 3 * n]] for n in range(6)]


def together(calls: list[Callable[[], Any]]) -> list[Any]:
    """What each call gives, each on a thread of its own, all begun at once; an error stands for itself."""
    found: list[Any] = [None] * len(calls)
    begin = threading.Barrier(len(calls))

    def call(n: int) -> None:
        begin.wait()
        try:
            found[n] = calls[n]()
        except BaseException as error:
            found[n] = error

    threads = [threading.Thread(target=call, args=(n,)) for n in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


# -- many threads ------------------------------------------------------------------------------------------------------
def test_threads_that_share_a_model_get_their_own_tokens(tiny_opt: Path, tmp_path: Path) -> None:
    with opened(tiny_opt, Policy(2, 1), tmp_path) as lm:
        right = [lm.generate(prompts, max_new_tokens=6).tolist() for prompts in PROMPTS]
        for _ in range(5):
            asked = [lambda p=p: lm.generate(p, max_new_tokens=6).tolist() for p in PROMPTS]  # type: ignore[misc]
            assert together(asked) == right


def test_threads_with_a_model_each_of_one_environment_get_their_own_tokens(tiny_opt: Path, tmp_path: Path) -> None:
    env = ExecutionEnv.create(tmp_path, device="cpu", num_threads=1)
    models = [OffloadedLM(str(tiny_opt), env, tiny_opt, policy) for policy in (Policy(2, 1), SPREAD)]
    right = [lm.generate(PROMPTS[0], max_new_tokens=6).tolist() for lm in models]
    for _ in range(5):
        asked = [lambda lm=lm: lm.generate(PROMPTS[0], max_new_tokens=6).tolist() for lm in models]  # type: ignore[misc]
        assert together(asked) == right
    for lm in models:
        lm.close()
    assert env.ledger.held == {}


def test_a_model_that_is_closed_leaves_another_of_its_environment_charged(tiny_opt: Path, tmp_path: Path) -> None:
    env = ExecutionEnv.create(tmp_path, device="cpu", num_threads=1)
    first, second = (OffloadedLM(str(tiny_opt), env, tiny_opt, Policy(2, 1)) for _ in range(2))
    both = dict(env.ledger.held)
    first.close()
    assert env.ledger.held == {arena: nbytes // 2 for arena, nbytes in both.items()}
    second.close()


def test_closing_waits_for_a_call_of_another_thread(tiny_opt: Path, tmp_path: Path) -> None:
    right: list[Any] = []
    with opened(tiny_opt, SPREAD, tmp_path) as lm:
        right = lm.generate(PROMPTS[0], max_new_tokens=8).tolist()
        began, ended = threading.Event(), threading.Event()

        def progress(done: int, total: int) -> None:
            began.set()
            assert not ended.is_set()

        def close() -> None:
            began.wait(30)
            lm.close()
            ended.set()

        found = together([lambda: lm.generate(PROMPTS[0], max_new_tokens=8, progress=progress).tolist(), close])
    assert found == [right, None]


def test_a_closed_model_says_so(tiny_opt: Path, tmp_path: Path) -> None:
    with opened(tiny_opt, SPREAD, tmp_path) as lm:
        lm.close()
        with pytest.raises(UsageError, match="is closed"):
            lm.generate(PROMPTS[0])
        lm.close()  # and closing twice is no error


# -- calls from inside -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("inner", ["generate", "close", "another model's"])
def test_a_call_from_inside_another_is_refused_and_the_model_can_be_used_again(
    inner: str, tiny_opt: Path, tmp_path: Path
) -> None:
    with opened(tiny_opt, SPREAD, tmp_path) as lm:
        right = lm.generate(PROMPTS[0], max_new_tokens=4).tolist()
        other = OffloadedLM(str(tiny_opt), lm.env, tiny_opt, Policy(2, 1))
        inside: dict[str, Callable[[], Any]] = {
            "generate": lambda: lm.generate(PROMPTS[1]),
            "close": lm.close,
            "another model's": lambda: other.generate(PROMPTS[1]),
        }
        with pytest.raises(UsageError, match="inside a call"):
            lm.generate(PROMPTS[0], max_new_tokens=4, progress=lambda done, total: inside[inner]())
        assert lm.generate(PROMPTS[0], max_new_tokens=4).tolist() == right
        other.close()


def test_a_call_from_a_signal_handler_is_refused(tiny_opt: Path, tmp_path: Path) -> None:
    def handler(number: int, frame: object) -> None:
        lm.generate(PROMPTS[1])

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with opened(tiny_opt, SPREAD, tmp_path) as lm:
            with pytest.raises(UsageError, match="inside a call"):
                progress = lambda done, total: signal.raise_signal(signal.SIGUSR1)  # noqa: E731
                lm.generate(PROMPTS[0], max_new_tokens=4, progress=progress)
            assert lm.generate(PROMPTS[0], max_new_tokens=1).shape == (1, 4)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_forked_child_is_refused_and_its_parent_goes_on(tiny_opt: Path, tmp_path: Path) -> None:
    with opened(tiny_opt, SPREAD, tmp_path) as lm:
        right = lm.generate(PROMPTS[0], max_new_tokens=4).tolist()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                lm.generate(PROMPTS[0], max_new_tokens=4)
            except UsageError as error:
                code = 0 if error.code == "FP146" else 2
                lm.close()  # leaves what is the parent's alone
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert lm.generate(PROMPTS[0], max_new_tokens=4).tolist() == right


# -- memory that stays -------------------------------------------------------------------------------------------------
def test_a_call_leaves_no_cyclic_garbage(tiny_opt: Path, tmp_path: Path) -> None:
    with opened(tiny_opt, SPREAD, tmp_path) as lm:
        lm.generate(PROMPTS[0] * 4, max_new_tokens=2)
        gc.collect()
        gc.disable()
        try:
            lm.generate(PROMPTS[1] * 4, max_new_tokens=2)
            assert gc.collect() == 0
        finally:
            gc.enable()


def test_objects_stay_as_many_over_many_calls(tiny_opt: Path, tmp_path: Path) -> None:
    with opened(tiny_opt, policy_with(2, 1, w=(20.0, 40.0), cache=(20.0, 40.0), act=(20.0, 40.0)), tmp_path) as lm:
        for prompts in PROMPTS[:3]:
            lm.generate(prompts, max_new_tokens=1)
        gc.collect()
        before = len(gc.get_objects())
        for n in range(CALLS):
            lm.generate(PROMPTS[n % 3], max_new_tokens=1)
        assert len(gc.get_objects()) < before + CALLS  # not one a call


def test_garbage_of_others_is_collected_while_a_model_lives(tiny_opt: Path, tmp_path: Path) -> None:
    """A full collection is put off while a run is under way, but its garbage stays within the collector's reach."""
    with opened(tiny_opt, SPREAD, tmp_path) as lm:
        threshold = gc.get_threshold()
        inside: list[tuple[int, int, int]] = []
        lm.generate(PROMPTS[0], max_new_tokens=2, progress=lambda done, total: inside.append(gc.get_threshold()))
        assert gc.get_threshold() == threshold
        assert gc.get_freeze_count() == 0
        assert {found[:2] for found in inside} == {threshold[:2]}
        assert sys.version_info >= (3, 14) or min(found[2] for found in inside) > 10**9  # newer: little by little


def test_runs_at_once_leave_the_interpreter_as_it_was() -> None:
    before = gc.get_threshold()
    first, second = pacing.undisturbed(), pacing.undisturbed()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold() != before
    second.__exit__(None, None, None)
    assert gc.get_threshold() == before


def test_a_run_of_hours_collects_every_few_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    now, collected = [0.0], []
    monkeypatch.setattr(pacing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(pacing.gc, "collect", lambda: collected.append(now[0]))
    rests = pacing.Rests()
    for now[0] in range(0, 1000, 10):
        rests.collect()
    assert collected == [310.0, 620.0, 930.0]


def test_a_threshold_set_during_a_run_stays() -> None:
    before = gc.get_threshold()
    try:
        with pacing.undisturbed():
            gc.set_threshold(500, 7, 6)
        assert gc.get_threshold() == (500, 7, 6)
    finally:
        gc.set_threshold(*before)


# -- errors ------------------------------------------------------------------------------------------------------------
def tensors() -> int:
    """Bytes of the tensors that somebody in this process still looks at."""
    return sum(found.nbytes for found in gc.get_objects() if type(found) is torch.Tensor)


def test_an_error_that_is_kept_keeps_no_memory_of_the_tiers(
    tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, reads, kept = os.preadv, [0], []

    def failing(*args: Any) -> int:
        reads[0] += 1
        if reads[0] == 10:
            raise OSError(errno.EIO, "injected")
        return real(*args)

    def fail_once() -> None:
        with opened(tiny_opt, SPREAD, tmp_path) as lm:
            reads[0] = 0
            with monkeypatch.context() as patched:
                patched.setattr(os, "preadv", failing)
                with pytest.raises(StorageError) as caught:
                    lm.generate(PROMPTS[0] * 4, max_new_tokens=4)
            kept.append(caught.value)
            assert lm.generate(PROMPTS[0] * 4, max_new_tokens=1).shape == (4, 4)

    fail_once()
    gc.collect()
    gc.disable()  # by counting references alone
    try:
        before, objects = tensors(), len(gc.get_objects())
        for _ in range(5):
            fail_once()
        assert tensors() <= before
        assert len(gc.get_objects()) < objects + 5 * 400  # the errors with their frames, not a model with its tensors
    finally:
        gc.enable()


# -- timelines ---------------------------------------------------------------------------------------------------------
def test_spans_are_kept_only_where_a_trace_is_asked_for(tiny_opt: Path, tmp_path: Path) -> None:
    with opened(tiny_opt, SPREAD, tmp_path) as lm:
        plain = lm.complete(PROMPTS[0] * 8, 3).timelines
        traced = lm.complete(PROMPTS[0] * 8, 3, trace=True).timelines
    assert [len(timeline.spans) for timeline in plain] == [0, 0]
    assert [len(timeline.spans) for timeline in traced] == [timeline.num_tasks for timeline in plain]
    assert all(timeline.end_s > 0 and timeline.lane_busy_s and timeline.prefill_s > 0 for timeline in plain)


def test_a_trace_without_spans_is_refused(tiny_opt: Path, tmp_path: Path) -> None:
    with opened(tiny_opt, SPREAD, tmp_path) as lm:
        lm.generate(PROMPTS[0], max_new_tokens=2)
    with pytest.raises(UsageError, match="only the sums"):
        lm.timeline.to_chrome_trace(tmp_path / "trace.json")
    assert not (tmp_path / "trace.json").exists()
    with opened(tiny_opt, SPREAD, tmp_path, timed=False) as lm, pytest.raises(UsageError, match="timed=False"):
        lm.generate(PROMPTS[0], max_new_tokens=2, trace=True)
