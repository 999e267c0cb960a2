"""The journal: the outputs of one job, each line announced in the log, then written, then synced with others."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from types import TracebackType
from zlib import crc32

from flexplan.errors import StorageError
from flexplan.journal.identity import refuse_other_requests, refuse_other_settings
from flexplan.journal.records import Ended, Held, Record, Rewritten, Settings, Shrunk, Synced, line_of, lines_of
from flexplan.journal.recovery import Recovered
from flexplan.journal.store import ERRORS, LOG, OUT, Handle, Store, hold_output
from flexplan.journal.tape import Tape

SYNC_EVERY_S = 1.0
_SYNC_SHARE = 200  # a slow disk is synced less often, so that this takes a 200th of the time at most
_MOST_S = 10.0
_COPIED_BYTES = 1 << 20


class Journal:
    """One run's outputs: of finished requests, and of failed ones.  Made by `open_journal`, which holds the lock.

    A line is acknowledged, safe whatever happens to the machine, when `synced` counts it; one that was only written
    is safe whatever happens to the process.  After an error of the disk nothing more is written.
    """

    def __init__(
        self,
        store: Store,
        log: Handle,
        held: Held,
        found: Recovered | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._log = log
        self._held = held
        self._clock = clock
        self._settings = found.settings if found else None
        self.shrunk = found.shrunk if found else None  # the blocks that an earlier run had memory for
        self._tapes = dict(found.tapes) if found else {OUT: Tape(), ERRORS: Tape()}
        self._handles: dict[str, Handle] = {}
        self._dirty = set[str]()
        self._is_new = found is None
        self._made = not store.exists(OUT)
        self.began = False  # or refused before
        self._failed = self._closed = False
        self._synced_s, self._every_s = clock(), SYNC_EVERY_S
        self.synced = 0  # lines that are acknowledged

    # -- before the work -----------------------------------------------------------------------------------------
    @property
    def finished(self) -> Mapping[int, str]:
        """The digest of each finished request, by its place in the input."""
        return self._tapes[OUT].digests

    @property
    def failed(self) -> Mapping[int, str]:
        """The same of those that have failed."""
        return self._tapes[ERRORS].digests

    def refuse_other_requests(self, digests: Sequence[str] | Mapping[int, str]) -> None:
        """Raise UsageError where a finished request has changed or is gone."""
        refuse_other_requests(self.finished, digests)

    def begin(self, settings: Mapping[str, str], again: Collection[int] = ()) -> None:
        """Go on with the job, or begin it; failed requests that are tried ``again`` leave their file.

        Raises UsageError where the settings are not those that the job was begun with.
        """
        if self._settings is not None:
            refuse_other_settings(self._settings.found, settings)
        self.began = True
        if self._settings is None:
            self._begin_anew(Settings(dict(settings)))
        self._handles[OUT] = hold_output(self._store)
        if self.failed or self._store.exists(ERRORS):
            self._handles[ERRORS] = self._store.open(ERRORS)
        self._store.sync_names()
        self._dirty.update(self._handles)  # of what a killed run wrote, nobody knows whether it was synced
        failed = self.failed
        if any(number in failed for number in again):
            self._rewrite(ERRORS, [number for number in self._tapes[ERRORS].numbers if number not in again])
        self.sync()

    def _begin_anew(self, settings: Settings) -> None:
        """What is there of another job goes; until the settings are in the log there is none to go on with."""
        self._log.truncate(0)
        self._log.sync()
        if self._store.exists(OUT):
            self._store.replace(OUT, ())
        self._store.remove(ERRORS)
        self._write(self._held, settings)
        self._log.sync()

    # -- the work ------------------------------------------------------------------------------------------------
    def finish(self, number: int, digest: str, line: str) -> None:
        """A request has ended well; raises StorageError."""
        self._add(OUT, number, digest, line)

    def fail(self, number: int, digest: str, line: str) -> None:
        """A request could not be completed."""
        if ERRORS not in self._handles:
            self._handles[ERRORS] = self._store.open(ERRORS)
            self._store.sync_names()
        self._add(ERRORS, number, digest, line)

    def shrink(self, policy: str, rows: int, batches: int) -> None:
        """Blocks are smaller from here on, also of the next run; before the first of them is run."""
        self.shrunk = Shrunk(policy, rows, batches)
        try:
            self._write(self.shrunk)
        except BaseException:
            self._failed = True
            raise
        self._dirty.add(OUT)
        self.sync()

    def tick(self) -> bool:
        """Sync where it is time to; did it?"""
        due = bool(self._dirty) and self._clock() - self._synced_s >= self._every_s
        if due:
            self.sync()
        return due

    def sync(self) -> None:
        """Acknowledge what is written."""
        began_s = self._clock()
        try:
            if self._log.is_gone():
                self._put_back()
            for name in sorted(self._dirty):
                self._handles[name].sync()
            self._log.sync()
            self._write(Synced())
        except BaseException:
            self._failed = True  # never synced again: what the system could not write it may have forgotten
            raise
        self._dirty.clear()
        self._synced_s = self._clock()
        self._every_s = min(_MOST_S, max(SYNC_EVERY_S, _SYNC_SHARE * (self._synced_s - began_s)))
        self.synced = len(self.finished) + len(self.failed)

    def _put_back(self) -> None:
        """The log where it was: it was taken away, and without it there is nothing to go on with."""
        handle = self._store.lock(LOG)
        if handle is None or handle.size():
            if handle is not None:
                handle.close()
            message = "the log of the job was removed while it was at work, and another file is in its place"
            raise StorageError("FP621", message, fix="keep it where it is until the job ends, and begin no other there")
        warnings.warn("the log of the job was removed while it is at work; it is put back", stacklevel=2)
        for at in range(0, self._log.size(), _COPIED_BYTES):
            handle.append(self._log.read(at, _COPIED_BYTES))
        handle.sync()
        self._store.sync_names()
        self._log.close()
        self._log = handle

    def refuse_gone(self) -> None:
        """Raise StorageError where an output was taken away meanwhile; `lines` still has it."""
        if self.gone():
            which = " and ".join(
                {OUT: "the output", ERRORS: "the file of failed requests"}[name] for name in self.gone()
            )
            message = f"{which} was removed, or replaced by another file, while the job was writing it"
            raise StorageError("FP617", message, fix="keep it where it is until the job ends")

    def order(self) -> None:
        """Finished requests in the order of the input."""
        numbers = self._tapes[OUT].numbers
        if any(before > after for before, after in pairwise(numbers)):
            self._rewrite(OUT, sorted(numbers))
            self.sync()

    def _add(self, name: str, number: int, digest: str, line: str) -> None:
        tape, data = self._tapes[name], line.encode()
        record = Ended(number, digest, name, tape.end + len(data), crc32(data, tape.crc))
        self._dirty.add(name)
        try:
            self._write(record)
            self._handles[name].append(data)
        except BaseException:
            self._failed = True
            with suppress(StorageError):
                self._handles[name].truncate(tape.end)
            raise
        tape.add(record)

    def _rewrite(self, name: str, numbers: list[int]) -> None:
        """Announced and synced, then done."""
        self.sync()
        tape = self._tapes[name]
        places, size, crc = tape.places(numbers), 0, 0
        for place in places:
            line = self._line(name, tape.span(place))
            size, crc = size + len(line), crc32(line, crc)
        self._write(Rewritten(name, numbers, size, crc))
        self._log.sync()
        self._store.replace(name, (self._line(name, tape.span(place)) for place in places))
        self._handles[name].close()
        self._handles[name] = hold_output(self._store) if name == OUT else self._store.open(name)
        tape.rewrite(numbers, crc)

    def _line(self, name: str, span: tuple[int, int]) -> bytes:
        return self._handles[name].read(span[0], span[1] - span[0])

    def _write(self, *records: Record) -> None:
        self._log.append(b"".join(map(line_of, records)))

    # -- its end -------------------------------------------------------------------------------------------------
    def lines(self, name: str = OUT) -> Iterator[str]:
        """Of the finished requests, or of another output; also where it has been removed."""
        tape = self._tapes[name]
        for place in range(len(tape.numbers)):
            yield self._line(name, tape.span(place)).decode()

    def gone(self) -> list[str]:
        """Which outputs have been removed, or replaced by another file."""
        return [name for name, handle in self._handles.items() if handle.is_gone()]

    def close(self) -> None:
        """Sync what is written and let the job go; one that nothing came of leaves no file."""
        if self._closed:
            return
        self._closed = True
        try:
            if not self._failed and self._dirty:
                self.sync()
        finally:
            if self._failed:  # a full disk still keeps what it has
                for handle in (*self._handles.values(), self._log):
                    with suppress(StorageError):
                        handle.sync()
            nothing = not self.finished and not self.failed and self.shrunk is None
            if nothing and (self.began or self._is_new):
                with suppress(StorageError):
                    self._remove()
            for handle in (*self._handles.values(), self._log):
                handle.close()

    def _remove(self) -> None:
        """While the log is still held."""
        if not self.began and any(isinstance(line.record, Settings) for line in lines_of(self._store.read(LOG))):
            return  # of another job, that was not gone on with
        self._store.remove(LOG)
        if self.began and self._made:
            self._store.remove(OUT)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            with suppress(StorageError):  # the first error is the one to be told
                self.close()
