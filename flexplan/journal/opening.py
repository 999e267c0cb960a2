"""Opening a journal: one run at a time; begun anew, or gone on with where the last one ended."""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Callable
from datetime import datetime
from typing import Literal, NoReturn

from flexplan.errors import OutputHeld, UsageError
from flexplan.journal.journal import Journal
from flexplan.journal.records import Held, Rewritten, holder_of, is_log, line_of
from flexplan.journal.recovery import Recovered, recover
from flexplan.journal.store import ERRORS, LOG, OUT, Handle, Store, hold_output

How = Literal["new", "resume", "overwrite"]


def open_journal(store: Store, how: How, clock: Callable[[], float] = time.monotonic) -> Journal:
    """The journal of an output, held by this process until it is closed.

    ``"new"`` wants an output with nothing in it, ``"overwrite"`` replaces what is there when the work begins, and
    ``"resume"`` cuts off what is not whole and goes on, or begins where there is nothing.  Raises OutputHeld while
    another run has it, UsageError where the output is no job's, StorageError where it was altered.
    """
    log = store.lock(LOG)
    if log is None:
        _refuse_held(store)
    try:
        if store.exists(OUT):
            hold_output(store).close()
        before = log.read(0, log.size())
        if not is_log(before):
            message = "beside the output, where the log of its job would be (OUT.job), is a file that is none"
            raise UsageError("FP135", message, fix="move that file, or choose another output")
        found = _found(store, log, before) if how == "resume" else None
        held = Held(os.getpid(), socket.gethostname(), datetime.now().astimezone().isoformat(" ", "seconds"))
        torn = b"" if before.endswith(b"\n") or not before or found else b"\n"
        log.append(torn + line_of(held))
        return Journal(store, log, held, found, clock)
    except BaseException:
        if not log.size():
            store.remove(LOG)
        log.close()
        raise


def _found(store: Store, log: Handle, before: bytes) -> Recovered | None:
    """What is whole, all else cut off; None where there is nothing to go on with."""
    outputs = {name: store.open(name) if store.exists(name) else None for name in (OUT, ERRORS)}
    try:
        found = recover(before, outputs)
        if found.settings is None:
            if any(handle is not None and handle.size() for handle in outputs.values()):
                message = "the output has something in it, and no log of a job beside it"
                fix = "give --overwrite to replace it, another path, or the name that its job was begun with"
                raise UsageError("FP174", message, fix=fix)
            return None
        for name, handle in outputs.items():
            if handle is not None and handle.size() > found.tapes[name].end:
                handle.truncate(found.tapes[name].end)
                handle.sync()
        log.truncate(found.log_end)
        if found.forgotten:
            message = f"the file of failed requests is gone: its {found.forgotten:,} requests are tried again"
            warnings.warn(message, stacklevel=2)
            log.append(line_of(Rewritten(ERRORS, [], 0, 0)))
        log.sync()
        return found
    finally:
        for handle in outputs.values():
            if handle is not None:
                handle.close()


def _refuse_held(store: Store) -> NoReturn:
    holder = holder_of(store.read(LOG))
    who = f"process {holder.pid} on {holder.host} since {holder.since}" if holder else "another run"
    raise OutputHeld("FP1201", f"the output is being written by {who}", fix="wait for it, or choose another output")
