"""What is whole of the outputs of a job that ended anyhow: in the middle of a write, or by the loss of power.

The log is followed from its beginning.  The first line that is torn, or announces what an output does not hold, is
where the job was when it ended: all behind it is cut off.  Where the log says that what is damaged had been synced, it
was damaged later, and by somebody else: that is an error, and nothing is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NoReturn
from zlib import crc32

from flexplan.errors import StorageError
from flexplan.journal.records import Ended, Line, Record, Rewritten, Settings, Shrunk, Synced, lines_of
from flexplan.journal.store import OUT, Handle

_CHUNK_BYTES = 1 << 20


@dataclass
class Tape:
    """One output as its log tells it: whose lines stand in it, in their order, where each ends, and the checksum."""

    numbers: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    digests: dict[int, str] = field(default_factory=dict)
    crc: int = 0

    @property
    def end(self) -> int:
        """Bytes."""
        return self.ends[-1] if self.ends else 0

    def add(self, record: Ended) -> None:
        """A line behind the others."""
        self.numbers.append(record.number)
        self.ends.append(record.end)
        self.digests[record.number] = record.digest
        self.crc = record.crc

    def spans(self) -> dict[int, tuple[int, int]]:
        """The bytes of each request's line."""
        return dict(zip(self.numbers, pairwise([0, *self.ends]), strict=True))

    def rewrite(self, numbers: Sequence[int], crc: int) -> None:
        """Only these lines, in this order."""
        spans, at = self.spans(), 0
        self.ends.clear()
        for number in numbers:
            lo, hi = spans[number]
            at += hi - lo
            self.ends.append(at)
        self.numbers = list(numbers)
        self.digests = {number: self.digests[number] for number in numbers}
        self.crc = crc


@dataclass
class Recovered:
    """What was found: the settings, where the job was begun, its outputs, and the part of the log that holds."""

    settings: Settings | None
    tapes: Mapping[str, Tape]
    log_end: int
    shrunk: Shrunk | None = None


def recover(log: bytes, outputs: Mapping[str, Handle | None]) -> Recovered:
    """Follow a log along its outputs; None is an output that does not exist.  Changes nothing."""
    lines = list(lines_of(log))
    at, follower = 0, _Follower(lines, outputs)
    for n, line in enumerate(lines):
        if line.record is None or not follower.holds(n, line.record):
            if any(isinstance(later.record, Synced) for later in lines[n:]):
                _refuse_altered(line.record, follower.tapes, outputs)
            if isinstance(line.record, Rewritten):  # it was announced, and not done: the output is the one of before
                return recover(log[:at], outputs)
            break
        follower.take(line.record)
        at = line.end
    return Recovered(follower.settings, follower.tapes, at, follower.shrunk)


class _Follower:
    """What the lines of a log have told so far."""

    def __init__(self, lines: Sequence[Line], outputs: Mapping[str, Handle | None]) -> None:
        self.tapes = {name: Tape() for name in outputs}
        self.settings: Settings | None = None
        self.shrunk: Shrunk | None = None
        self._checkers = {name: _Checker(handle) for name, handle in outputs.items()}
        self._last = dict.fromkeys(outputs, -1)  # the line by which an output was replaced: what was before is gone
        for n, line in enumerate(lines):
            if isinstance(line.record, Rewritten):
                self._last[line.record.name] = n

    def holds(self, n: int, record: Record) -> bool:
        """Is it so on the disk, as far as it can still be seen?"""
        if not isinstance(record, Ended | Rewritten):
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


def _refuse_altered(record: Record | None, tapes: Mapping[str, Tape], outputs: Mapping[str, Handle | None]) -> NoReturn:
    what = "a line of the job's log"
    if isinstance(record, Ended | Rewritten):
        which = "output" if record.name == OUT else "file of failed requests"
        line = len(tapes[record.name].numbers) + 1
        what = f"line {line:,} of the {which}, or one before," if outputs[record.name] else f"the {which}"
    message = f"{what} was safe on the disk, and has been altered or removed since"
    raise StorageError(
        "FP618", message, fix="put back what was there, or begin anew with --overwrite or another output"
    )


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
