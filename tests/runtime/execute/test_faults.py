"""Faults: the first error of any worker is the caller's within a second; nothing hangs, nothing stays behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from flexplan_runtime import ExecutionEnv, OffloadedLM
from flexplan_runtime.execute.handlers.table import HANDLERS
from injectors import (
    at_call,
    failing_io,
    flexplan_threads,
    free_bytes,
    mounted,
    patch_io,
    refuse_direct_io,
    wrap_handlers,
)
from policies import Case, generated, opened, text_prompts, text_reference
from tiny_models import CONFIGS, saved

from flexplan.errors import DeadlineExceeded, StorageError
from flexplan.policy import Policy
from flexplan.testing import policy_with

SPREAD = {"w_gpu_percent": 20.0, "w_cpu_percent": 40.0, "cache_gpu_percent": 20.0, "cache_cpu_percent": 40.0}
SPREAD |= {"act_gpu_percent": 20.0, "act_cpu_percent": 40.0}
HOSTED_KINDS = {"project", "send_query", "attend", "load_attention"}
LOSSY = {  # kinds that only such policies have
    "unpack_weight": {"compress_weight": True},
    "load_values": {"attn_sparsity": 0.5, "cache_cpu_percent": 80.0},
}
STREAMED = Policy(2, 2, **SPREAD, pin_weight=False)
HOSTED = Policy(2, 2, **SPREAD, cpu_cache_compute=True)
ON_DISK = policy_with(2, 2, w=(0.0, 0.0), cache=(0.0, 0.0), act=(0.0, 0.0))
CASE = Case(STREAMED, num_prompts=4)
MOVES = "move_gpu", "move_cpu", "move_up", "move_down"  # only rows of a rolling schedule move
MOVING = policy_with(3, 4, w=(0, 100), cache=(40, 60), cpu_cache_compute=True, sep_layer=False, room_percent=20)
DEMANDED = "route", "send_routes", "load_experts"  # only of a mixture whose experts are sent once they are chosen
DEMANDING = policy_with(3, 1, w=(0, 100), experts_on_demand=True)
SOON_S = 15.0  # less than anything here that sleeps, and more than a busy machine takes


class Broken(Exception):
    """What an injector raises."""


def policy_of(kind: str, overlap: bool = True) -> Policy:
    fields: dict[str, Any] = SPREAD | LOSSY.get(kind, {})
    return Policy(2, 2, **fields, pin_weight=False, overlap=overlap, cpu_cache_compute=kind in HOSTED_KINDS)


def right(model: Path, lm: OffloadedLM, progress: Callable[[int, int], None] | None = None) -> bool:
    """Does it generate what transformers does, or what a lossy policy gives in a run without a fault?"""
    prompts = text_prompts(model, 4)
    output = lm.generate(prompts, max_new_tokens=4, pad_token_id=0, progress=progress)
    if lm.policy.compress_weight or lm.policy.attn_sparsity < 1:
        return torch.equal(output, generated(model, Case(lm.policy, num_prompts=4), prompts, lm.env.offload_dir))
    return torch.equal(output, text_reference(model).expected(CASE))


@contextmanager
def clean(scratch: Path) -> Iterator[None]:
    """Afterwards no thread of ours runs, and the scratch directory is as empty as before."""
    yield
    assert flexplan_threads() == []
    assert not scratch.exists() or list(scratch.iterdir()) == []


# -- a worker raises -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("number", "overlap"), [(1, True), (0, False)])
@pytest.mark.parametrize("kind", [kind for kind in HANDLERS if kind not in MOVES + DEMANDED])
def test_an_error_of_any_worker_is_the_callers_at_once(
    kind: str, number: int, overlap: bool, tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, raised = Broken(kind), []

    def fail() -> None:
        raised.append(time.monotonic())
        raise error

    with clean(tmp_path / "scratch"), opened(tiny_opt, policy_of(kind, overlap), tmp_path / "scratch") as lm:
        with monkeypatch.context() as patched:
            wrap_handlers(patched, at_call(number, fail), kind)
            with pytest.raises(Broken) as caught:
                lm.generate(text_prompts(tiny_opt, 4), max_new_tokens=4)
        assert time.monotonic() - raised[0] < SOON_S
        assert caught.value is error
        assert len(raised) == 1
        assert [name for name in flexplan_threads() if name != "flexplan-disk_0"] == []
        assert right(tiny_opt, lm)  # it is not poisoned
    assert lm.env.ledger.held == {}


@pytest.mark.parametrize("kind", MOVES)
def test_an_error_of_a_move_is_the_callers(
    kind: str, tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = Broken(kind)

    def fail() -> None:
        raise error

    prompts = [[5] * length for length in (3, 2, 7, 3, 2, 5, 9, 1, 4, 6)] * 2
    most = [4, 7, 2, 6, 6, 1, 3, 5, 4, 2] * 2
    scratch = tmp_path / "scratch"
    with clean(scratch), opened(tiny_opt, MOVING, scratch, schedule="rolling") as lm:
        expected = lm.complete(prompts, most).tokens
        with monkeypatch.context() as patched:
            wrap_handlers(patched, at_call(1, fail), kind)
            with pytest.raises(Broken) as caught:
                lm.complete(prompts, most)
        assert caught.value is error
        assert lm.complete(prompts, most).tokens == expected
    assert lm.env.ledger.held == {}


@pytest.mark.parametrize("kind", DEMANDED)
def test_an_error_of_an_expert_on_its_way_is_the_callers(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, prompts, model = Broken(kind), [[5, 6, 7], [8, 9], [3]], tmp_path / "model"

    def fail() -> None:
        raise error

    saved(CONFIGS["mixtral"], model)
    with clean(tmp_path / "scratch"), opened(model, DEMANDING, tmp_path / "scratch") as lm:
        expected = lm.complete(prompts, 4).tokens
        with monkeypatch.context() as patched:
            wrap_handlers(patched, at_call(1, fail), kind)
            with pytest.raises(Broken) as caught:
                lm.complete(prompts, 4)
        assert caught.value is error
        assert lm.complete(prompts, 4).tokens == expected
    assert lm.env.ledger.held == {}


def test_the_first_error_is_the_one_that_is_raised(
    tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [Broken("first"), Broken("second")]
    first_is_out = threading.Event()

    def raise_first() -> None:
        first_is_out.set()
        raise errors[0]

    def raise_second() -> None:
        first_is_out.wait(5)
        time.sleep(0.1)
        raise errors[1]

    wrap_handlers(monkeypatch, at_call(0, raise_first), "compute")
    # two chunks each from host and disk are the first layer's, and what computes first waits for them
    wrap_handlers(monkeypatch, at_call(4, raise_second), "load_weight")
    with clean(tmp_path), opened(tiny_opt, STREAMED, tmp_path) as lm:
        with pytest.raises(Broken) as caught:
            lm.generate(text_prompts(tiny_opt, 4), max_new_tokens=4)
        assert caught.value is errors[0]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), RecursionError()], ids=repr)
def test_whatever_a_worker_raises_reaches_the_caller(
    error: BaseException, tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    wrap_handlers(monkeypatch, at_call(5, fail), "compute")
    with clean(tmp_path), opened(tiny_opt, STREAMED, tmp_path) as lm, pytest.raises(type(error)) as caught:
        lm.generate(text_prompts(tiny_opt, 4), max_new_tokens=4)
    assert caught.value is error


def test_an_error_does_not_wait_for_a_slow_neighbour(
    tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep, wake, raised = threading.Event(), threading.Event(), []

    def sleep() -> None:
        asleep.set()
        wake.wait(20)

    def fail() -> None:
        asleep.wait(5)
        raised.append(time.monotonic())
        raise Broken

    wrap_handlers(monkeypatch, at_call(2, sleep), "read_weight")
    wrap_handlers(monkeypatch, at_call(0, fail), "compute")
    with clean(tmp_path), opened(tiny_opt, STREAMED, tmp_path) as lm:
        with pytest.raises(Broken):
            lm.generate(text_prompts(tiny_opt, 4), max_new_tokens=4)
        waited_s = time.monotonic() - raised[0]
        wake.set()
    assert waited_s < SOON_S


def test_an_error_in_the_callers_progress_ends_the_run(tiny_opt: Path, tmp_path: Path) -> None:
    def progress(done: int, total: int) -> None:
        raise Broken(done)

    with clean(tmp_path), opened(tiny_opt, STREAMED, tmp_path) as lm:
        with pytest.raises(Broken, match="4"):
            lm.generate(text_prompts(tiny_opt, 4), max_new_tokens=4, progress=progress)
        assert right(tiny_opt, lm)


def test_a_worker_that_cannot_be_started_is_an_error(
    tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refusing(self: threading.Thread) -> None:
        if self.name == "flexplan-gpu":
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refusing)
    with clean(tmp_path), opened(tiny_opt, STREAMED, tmp_path) as lm, pytest.raises(RuntimeError, match="new thread"):
        lm.generate(text_prompts(tiny_opt, 4), max_new_tokens=4)


# -- a worker stalls -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("kind", ["compute", "load_weight", "read_cache", "attend", "store_ids"])
def test_a_stalled_task_ends_at_the_deadline_with_its_name(
    kind: str, overlap: bool, tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wake = threading.Event()
    wrap_handlers(monkeypatch, at_call(1, lambda: wake.wait(30) and None), kind)
    with clean(tmp_path), opened(tiny_opt, policy_of(kind, overlap), tmp_path, deadline_s=0.4) as lm:
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"waiting for \w+@\w+\[i=\d+ j=\d+ k=\d+") as stuck:
            lm.generate(text_prompts(tiny_opt, 4), max_new_tokens=4)
        assert time.monotonic() - begun < SOON_S
        assert stuck.value.exit_code == 9
        wake.set()


@pytest.mark.parametrize("kind", ["compute", "load_weight", "attend"])
def test_what_a_stalled_task_writes_late_harms_no_later_call(
    kind: str, tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wake, late = threading.Event(), threading.Event()

    def scribbles(handler: Callable[..., None]) -> Callable[..., None]:
        """The second call stalls; woken, it writes over all that its block has."""
        calls = iter(range(1 << 30))

        def injected(view: Any) -> None:
            if next(calls) == 1:
                memory = list(view._memory.work.memory.values())
                wake.wait(30)
                for arena in memory:
                    arena.fill_(7)
                late.set()
            handler(view)

        return injected

    def wakes(done: int, total: int) -> None:
        wake.set()
        assert late.wait(30)

    wrap_handlers(monkeypatch, scribbles, kind)
    with clean(tmp_path), opened(tiny_opt, policy_of(kind, True), tmp_path, deadline_s=0.4) as lm:
        with pytest.raises(DeadlineExceeded):
            lm.generate(text_prompts(tiny_opt, 4), max_new_tokens=4)
        assert right(tiny_opt, lm, progress=wakes)


def test_a_request_that_outlives_its_transfer_harms_no_later_call(
    tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wake, late, stalled = threading.Event(), threading.Event(), threading.Event()
    calls = iter(range(1 << 30))

    def fails_and_stalls(real: Callable[..., int], handle: int, views: list[memoryview], offset: int) -> int:
        match next(calls):
            case 3:
                stalled.set()
                wake.wait(30)
                views[0][:] = bytes([7]) * len(views[0])
                late.set()
                return len(views[0])
            case number if number > 3 and not failed:
                assert stalled.wait(30)
                failed.append(number)
                raise OSError(errno.EIO, "broken")
        return real(handle, views, offset)

    def wakes(done: int, total: int) -> None:
        wake.set()
        assert late.wait(30)

    failed: list[int] = []
    monkeypatch.setattr("flexplan_runtime.memory.disk.DISK_REQUEST_BYTES", 4096)  # so that a read is several requests
    with clean(tmp_path), opened(tiny_opt, ON_DISK, tmp_path) as lm:
        patch_io(monkeypatch, "preadv", fails_and_stalls)
        with pytest.raises(StorageError, match="broken"):
            lm.generate(text_prompts(tiny_opt, 4), max_new_tokens=4)
        assert failed and not late.is_set()
        assert not lm._calls.room.arenas.memory, "what it may write to is given up"
        assert right(tiny_opt, lm, progress=wakes)


def test_a_stalled_disk_does_not_hold_up_the_end(
    tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wake, calls = threading.Event(), iter(range(1 << 30))

    def stalls(real: Callable[..., int], handle: int, views: list[memoryview], offset: int) -> int:
        if next(calls) == 3:
            wake.wait(30)
        return real(handle, views, offset)

    monkeypatch.setattr("flexplan_runtime.memory.disk.DISK_REQUEST_BYTES", 4096)  # so that a read is several requests
    with clean(tmp_path):
        with opened(tiny_opt, ON_DISK, tmp_path, deadline_s=0.4) as lm:
            files = open_files()
            patch_io(monkeypatch, "preadv", stalls)
            with pytest.raises(DeadlineExceeded):
                lm.generate(text_prompts(tiny_opt, 4), max_new_tokens=4)
            assert right(tiny_opt, lm)
            begun = time.monotonic()
        assert time.monotonic() - begun < SOON_S
        assert not wake.is_set()
        wake.set()
        give_up = time.monotonic() + SOON_S
        while open_files() >= files and time.monotonic() < give_up:
            time.sleep(0.01)
        assert open_files() < files, "the last request closes its file"


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_slow_is_not_stalled(tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(handler: Callable[..., None]) -> Callable[..., None]:
        def slowed(*args: Any) -> None:
            time.sleep(0.03)
            handler(*args)

        return slowed

    wrap_handlers(monkeypatch, slow, "compute")
    with opened(tiny_opt, ON_DISK, tmp_path, deadline_s=1.0) as lm:
        assert right(tiny_opt, lm)
        assert lm.timeline.end_s > 2


# -- the disk ----------------------------------------------------------------------------------------------------------
def test_a_full_disk_is_found_before_anything_is_computed(
    tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    with clean(tmp_path), opened(tiny_opt, ON_DISK, tmp_path) as lm:
        held = dict(lm.env.ledger.held)
        with monkeypatch.context() as patched:
            patched.setattr(os, "posix_fallocate", failing_io(errno.ENOSPC))
            wrap_handlers(patched, at_call(0, lambda: ran.append("a task")))
            with pytest.raises(StorageError, match=r"cannot hold .*iB .*No space left .*free [\d.]+ .iB") as full:
                lm.generate(text_prompts(tiny_opt, 4), max_new_tokens=4)
        assert (full.value.code, full.value.exit_code) == ("FP601", 6)
        assert ran == []
        assert lm.env.ledger.held == held
        assert right(tiny_opt, lm)


def test_a_disk_too_small_for_the_cache_really_refuses(tiny_opt: Path, tmp_path: Path) -> None:
    policy = Policy(2, 2, cache_gpu_percent=0.0)
    with mounted(tmp_path / "small", 64 << 10) as small, opened(tiny_opt, policy, small) as lm:
        with pytest.raises(StorageError, match=r"free 64\.00 KiB"):
            lm.generate(text_prompts(tiny_opt, 4), max_new_tokens=4)
        assert free_bytes(small) == 64 << 10


def test_a_disk_too_small_for_the_weights_really_refuses(tiny_opt: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "small", 64 << 10) as small, ExecutionEnv.create(small, device="cpu") as env:
        with pytest.raises(StorageError, match=r"free 64\.00 KiB"):
            OffloadedLM(tiny_opt, env, tiny_opt, ON_DISK)
        assert env.ledger.held == {}
        assert free_bytes(small) == 64 << 10


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS], ids=errno.errorcode.get)
@pytest.mark.parametrize("name", ["preadv", "pwritev"])
def test_a_failing_disk_is_a_storage_error_that_says_how(
    name: str, code: int, tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with clean(tmp_path), opened(tiny_opt, ON_DISK, tmp_path) as lm:
        with monkeypatch.context() as patched:
            patch_io(patched, name, failing_io(code))
            begun = time.monotonic()
            with pytest.raises(StorageError, match=os.strerror(code)) as failure:
                lm.generate(text_prompts(tiny_opt, 4), max_new_tokens=4)
        assert time.monotonic() - begun < SOON_S
        assert failure.value.exit_code == 6
        assert right(tiny_opt, lm)


def test_short_reads_and_writes_change_nothing(tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(real: Callable[..., int], handle: int, views: list[memoryview], offset: int) -> int:
        return real(handle, [views[0][:12_288]], offset)

    for name in ("preadv", "pwritev"):
        patch_io(monkeypatch, name, short)
    with opened(tiny_opt, ON_DISK, tmp_path) as lm:
        assert right(tiny_opt, lm)


def test_without_direct_io_the_bytes_are_the_same(
    tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_direct_io(monkeypatch)
    with opened(tiny_opt, ON_DISK, tmp_path) as lm:
        assert right(tiny_opt, lm)


DAMAGED = {
    "weights": policy_with(2, 2, w=(0.0, 0.0)),
    "keys and values": Policy(2, 2, cache_gpu_percent=0.0),
    "keys and values, attended on the host": Policy(2, 2, cache_gpu_percent=0.0, cpu_cache_compute=True),
    "activations": Policy(2, 2, act_gpu_percent=0.0),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_bit_that_flips_on_disk_is_found(
    what: str, tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flip(real: Callable[..., int], handle: int, views: list[memoryview], offset: int) -> int:
        moved = real(handle, views, offset)
        views[0][moved // 2] ^= 1
        return moved

    with clean(tmp_path), opened(tiny_opt, DAMAGED[what], tmp_path) as lm:
        patch_io(monkeypatch, "preadv", flip)
        with pytest.raises(StorageError, match="differ from what was written") as failure:
            lm.generate(text_prompts(tiny_opt, 4), max_new_tokens=4)
        assert (failure.value.code, failure.value.exit_code) == ("FP604", 6)


# -- scratch ---------------------------------------------------------------------------------------------------------
def test_scratch_has_no_name_during_the_run_and_leaves_nothing(tiny_opt: Path, tmp_path: Path) -> None:
    scratch, seen = tmp_path / "scratch", []
    with clean(scratch), opened(tiny_opt, ON_DISK, scratch) as lm:
        prompts = text_prompts(tiny_opt, 4)
        lm.generate(prompts, max_new_tokens=3, progress=lambda *_: seen.append(list(scratch.iterdir())))
        assert seen == [[], [], []]
        assert lm.env.ledger.held["disk.weights"] > 0


def test_a_scratch_directory_may_vanish_during_the_run(tiny_opt: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    case = Case(ON_DISK, num_prompts=4)
    with opened(tiny_opt, ON_DISK, scratch) as lm:
        prompts, gone = text_prompts(tiny_opt, 4), []

        def remove(*_: int) -> None:
            if not gone:
                gone.append(scratch.rmdir())

        output = lm.generate(prompts, max_new_tokens=4, pad_token_id=0, progress=remove)
    assert torch.equal(output, text_reference(tiny_opt).expected(case))


KILLED = """
import sys, time
from pathlib import Path
from flexplan_runtime import ExecutionEnv, OffloadedLM
from flexplan.policy import Policy
model, scratch = sys.argv[1:]
env = ExecutionEnv.create(scratch, device="cpu")
lm = OffloadedLM(model, env, model, Policy(2, 2, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), dtype="float32")
lm.generate([[2, 5]] * 4, max_new_tokens=400, progress=lambda done, total: (print(done, flush=True), time.sleep(0.1)))
"""


def test_kill_9_leaves_nothing_on_the_disk(tiny_opt: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 64 << 20) as disk:
        scratch = disk / "scratch"
        scratch.mkdir()
        before = free_bytes(disk)
        run = subprocess.Popen([sys.executable, "-c", KILLED, tiny_opt, scratch], stdout=subprocess.PIPE, text=True)
        assert run.stdout is not None
        assert run.stdout.readline() == "4\n"
        assert free_bytes(disk) < before - (4 << 20)  # its weights are there
        run.send_signal(signal.SIGKILL)
        run.wait(10)
        run.stdout.close()
        assert list(scratch.iterdir()) == []
        assert free_bytes(disk) == before


def test_two_runs_share_a_directory(tiny_opt: Path, tmp_path: Path) -> None:
    prompts, expected = text_prompts(tiny_opt, 8), text_reference(tiny_opt).tokens
    outputs: dict[int, Any] = {}

    def run(first: int) -> None:
        with opened(tiny_opt, ON_DISK, tmp_path) as lm:
            outputs[first] = lm.generate(prompts[first : first + 4], max_new_tokens=4)[:, -4:]

    threads = [threading.Thread(target=run, args=(first,)) for first in (0, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for first in (0, 4):
        assert torch.equal(outputs[first], expected[first : first + 4])
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_file_is_no_mapping(tiny_opt: Path, tmp_path: Path) -> None:
    """A full disk under a mapping is a dead process; so no bytes of the disk tier are mapped."""
    with opened(tiny_opt, ON_DISK, tmp_path) as lm:
        lm.generate([[2, 5]], max_new_tokens=2)
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()
        assert str(tiny_opt) not in Path("/proc/self/maps").read_text()
