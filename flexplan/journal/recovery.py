"""What is whole of the outputs of a job that ended anyhow: in the middle of a write, or by the loss of power.

The log is followed from its beginning.  The first line that is torn, or announces what an output does not hold, is
where the job was when it ended: all behind it is cut off.  Where the log says that what is damaged had been synced, it
was damaged later, and by somebody else: that is an error, and nothing is touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn
from zlib import crc32

from flexplan.errors import StorageError
from flexplan.journal.records import Ended, Record, Rewritten, Settings, Shrunk, Synced, lines_of
from flexplan.journal.store import ERRORS, OUT, Handle
from flexplan.journal.tape import Tape

_CHUNK_BYTES = 1 << 20


@dataclass
class Recovered:
    """What was found: the settings, where the job was begun, its outputs, and the part of the log that holds."""

    settings: Settings | None
    tapes: Mapping[str, Tape]
    log_end: int
    shrunk: Shrunk | None = None
    forgotten: int = 0  # failed requests whose file is gone


def recover(log: bytes, outputs: Mapping[str, Handle | None]) -> Recovered:
    """Follow a log along its outputs; None is an output that does not exist.  Changes nothing.

    Nothing was computed of failed requests: where their file is gone, or empty, they are as if they had not been tried.
    """
    last_synced, last_rewritten = _survey(log, outputs)
    at, follower = 0, _Follower(outputs, last_rewritten)
    for n, line in enumerate(lines_of(log)):
        if line.record is None or not follower.holds(n, line.record):
            if n < last_synced:
                _refuse_altered(line.record, follower.tapes, outputs)
            if isinstance(line.record, Rewritten):  # it was announced, and not done: the output is the one of before
                return recover(log[:at], outputs)
            break
        follower.take(line.record)
        at = line.end
    return Recovered(follower.settings, follower.kept(), at, follower.shrunk, follower.forgotten)


def _survey(log: bytes, names: Iterable[str]) -> tuple[int, dict[str, int]]:
    """The last line that says all before it is safe, and the last by which each output was replaced; -1 is none."""
    last_synced, last_rewritten = -1, dict.fromkeys(names, -1)
    for n, line in enumerate(lines_of(log)):
        if isinstance(line.record, Synced):
            last_synced = n
        elif isinstance(line.record, Rewritten):
            last_rewritten[line.record.name] = n
    return last_synced, last_rewritten


class _Follower:
    """What the lines of a log have told so far."""

    def __init__(self, outputs: Mapping[str, Handle | None], last_rewritten: Mapping[str, int]) -> None:
        self.tapes = {name: Tape() for name in outputs}
        self.settings: Settings | None = None
        self.shrunk: Shrunk | None = None
        self._checkers = {name: _Checker(handle) for name, handle in outputs.items()}
        self._last = last_rewritten  # what an output was before it was replaced is gone
        failed = outputs[ERRORS]
        self._no_errors = failed is None or not failed.size()

    def holds(self, n: int, record: Record) -> bool:
        """Is it so on the disk, as far as it can still be seen?"""
        if not isinstance(record, Ended | Rewritten) or (record.name == ERRORS and self._no_errors):
            return True
        return n < self._last[record.name] or self._checkers[record.name].holds(record.end, record.crc)

    def take(self, record: Record) -> None:
        """Believe it."""
        if isinstance(record, Settings):
            self.settings = record
        elif isinstance(record, Shrunk):
            self.shrunk = record
        elif isinstance(record, Ended):
            self.tapes[record.name].add(record)
        elif isinstance(record, Rewritten):
            self.tapes[record.name].rewrite(record.numbers, record.crc)

    @property
    def forgotten(self) -> int:
        """Failed requests of which no line is there any more."""
        return len(self.tapes[ERRORS].numbers) if self._no_errors else 0

    def kept(self) -> dict[str, Tape]:
        """The outputs as they are."""
        return {**self.tapes, ERRORS: Tape()} if self._no_errors else self.tapes


def _refuse_altered(record: Record | None, tapes: Mapping[str, Tape], outputs: Mapping[str, Handle | None]) -> NoReturn:
    what, fix = "a line of the job's log", "put back what was there, or begin anew with --overwrite or another output"
    if isinstance(record, Ended | Rewritten):
        which = "output" if record.name == OUT else "file of failed requests"
        line = len(tapes[record.name].numbers) + 1
        what = f"line {line:,} of the {which}, or one before," if outputs[record.name] else f"the {which}"
        if record.name == ERRORS:
            fix = "put back what was there, or remove that file: its requests are tried again"
    message = f"{what} was safe on the disk, and has been altered or removed since"
    raise StorageError("FP618", message, fix=fix)


class _Checker:
    """The checksum of an output from its beginning, as far as it was asked for."""

    def __init__(self, handle: Handle | None) -> None:
        self._chunks = _chunks(handle) if handle else iter(())
        self._data = memoryview(b"")  # cut without being copied
        self._end = self._crc = 0

    def holds(self, end: int, crc: int) -> bool:
        """Is it so long, with this checksum up to there?"""
        if end < self._end:
            return False
        while self._end < end:
            if not self._data:
                self._data = memoryview(next(self._chunks, b""))
                if not self._data:
                    return False
            part, self._data = self._data[: end - self._end], self._data[end - self._end :]
            self._crc = crc32(part, self._crc)
            self._end += len(part)
        return self._crc == crc


def _chunks(handle: Handle) -> Iterator[bytes]:
    at = 0
    while data := handle.read(at, _CHUNK_BYTES):
        at += len(data)
        yield data
