"""Injectors: what makes a handler, a system call or a file system fail, stall or take its time."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from flexplan_runtime.execute.handlers.table import HANDLERS

Handler = Callable[..., None]


def wrap_handlers(monkeypatch: pytest.MonkeyPatch, wrap: Callable[[Handler], Handler], *kinds: str) -> None:
    """Put something around the handlers of these kinds, all by default."""
    for kind in kinds or tuple(HANDLERS):
        monkeypatch.setitem(HANDLERS, kind, wrap(HANDLERS[kind]))  # type: ignore[arg-type]


def at_call(number: int, act: Callable[[], None]) -> Callable[[Handler], Handler]:
    """Act before the call with this number, from 0; the others are as they were."""
    calls, lock = iter(range(1 << 30)), threading.Lock()

    def wrap(handler: Handler) -> Handler:
        def injected(*args: Any) -> None:
            with lock:
                now = next(calls) == number
            if now:
                act()
            handler(*args)

        return injected

    return wrap


def patch_io(monkeypatch: pytest.MonkeyPatch, name: str, io: Callable[..., int]) -> None:
    """``io`` in place of os.preadv or os.pwritev; its first argument is the real one."""
    real = getattr(os, name)

    def patched(handle: int, views: list[memoryview], offset: int) -> int:
        return io(real, handle, views, offset)

    patched.__name__ = name
    monkeypatch.setattr(os, name, patched)


def failing_io(code: int) -> Callable[..., int]:
    """A system call that fails with this errno."""

    def fail(*_: Any) -> int:
        raise OSError(code, os.strerror(code))

    return fail


def refuse_direct_io(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows no O_DIRECT."""
    real = fcntl.fcntl

    def refusing(handle: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETFL and argument & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(handle, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refusing)


@contextmanager
def mounted(place: Path, nbytes: int) -> Iterator[Path]:
    """A file system of this size, where this user may mount one; else the test is skipped."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={nbytes}", "tmpfs", str(place)]
    try:
        refused = subprocess.run(mount, capture_output=True).returncode
    except FileNotFoundError:
        refused = 1
    if refused:
        pytest.skip("may not mount a file system here")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def free_bytes(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def flexplan_threads() -> list[str]:
    """Names of flexplan's threads; those that are about to end get two seconds."""
    give_up = time.monotonic() + 2
    while True:
        names = [thread.name for thread in threading.enumerate() if thread.name.startswith("flexplan-")]
        if not names or time.monotonic() > give_up:
            return names
        time.sleep(0.01)
