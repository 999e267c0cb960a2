"""The log of a job, line by line: each has a checksum of its own, so that a torn one is seen.

A line of an output is announced here before it is written there, with where it ends and the checksum of the output up
to there.  So whatever is whole in an output is known, whenever a job is killed; what was announced and is not there,
was not written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from json.encoder import encode_basestring_ascii as quoted
from typing import Any
from zlib import crc32


@dataclass(frozen=True, slots=True)
class Held:
    """A run has taken the job: its process, its host, and since when."""

    pid: int
    host: str
    since: str


@dataclass(frozen=True, slots=True)
class Settings:
    """What all requests of the job were run with."""

    found: dict[str, str]


@dataclass(frozen=True, slots=True)
class Ended:
    """A line of an output: which request's, in which file, the byte behind it, and the checksum up to there."""

    number: int
    digest: str
    name: str
    end: int
    crc: int


@dataclass(frozen=True, slots=True)
class Synced:
    """All that was announced before this line is on the disk."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """An output is replaced by some of its own lines in another order: whose, and the size and checksum of all."""

    name: str
    numbers: list[int]
    end: int
    crc: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Of a log without an output: what came of the request of this digest, as plain data."""

    digest: str
    found: Any


@dataclass(frozen=True, slots=True)
class Shrunk:
    """Memory gave out: so many rows and micro-batches a block from here on, for the policy with this digest."""

    policy: str
    rows: int
    batches: int


Record = Held | Settings | Ended | Synced | Rewritten | Answer | Shrunk
_KINDS: dict[str, type[Record]] = {
    "held": Held,
    "settings": Settings,
    "ended": Ended,
    "synced": Synced,
    "rewritten": Rewritten,
    "answer": Answer,
    "shrunk": Shrunk,
}
_BEGINNING = re.compile(rb'[0-9a-f]{8} \["')
_TORN = re.compile(rb"[0-9a-f]{1,8}( \[?)?")
_encode = json.JSONEncoder(separators=(",", ":")).encode
_NAMES = {kind: name for name, kind in _KINDS.items()}


@dataclass(frozen=True, slots=True)
class Line:
    """A record and the byte of the log behind it; no record where the line is not whole."""

    record: Record | None
    end: int


def line_of(record: Record) -> bytes:
    """A line of the log."""
    if isinstance(record, Ended):  # a line a request: written by hand, in the same form
        digest, name = quoted(record.digest), quoted(record.name)
        body = f'["ended",{record.number},{digest},{name},{record.end},{record.crc}]'.encode()
    else:
        body = _encode([_NAMES[type(record)], *(getattr(record, one) for one in type(record).__slots__)]).encode()
    return b"%08x %s\n" % (crc32(body), body)


def lines_of(log: bytes) -> Iterator[Line]:
    """All lines of a log, also those behind one that is not whole."""
    at = 0
    for raw in BytesIO(log):  # one by one: there may be a million
        at += len(raw)
        yield Line(_parsed(raw), at)


def holder_of(log: bytes) -> Held | None:
    """Who took the job last."""
    held = [line.record for line in lines_of(log) if isinstance(line.record, Held)]
    return held[-1] if held else None


def is_log(found: bytes) -> bool:
    """Can this be a log, or what the loss of power left of one?  Nothing is, too, and so are bytes that were lost."""
    if _BEGINNING.match(found) or found[:1] in (b"", b"\0") or _TORN.fullmatch(found):
        return True
    return any(line.record for line in lines_of(found))


def _parsed(raw: bytes) -> Record | None:
    check, _, body = raw.partition(b" ")
    if not body.endswith(b"\n") or check != b"%08x" % crc32(body[:-1]):
        return None
    try:
        kind, *values = json.loads(body.decode())
        made: Any = _KINDS[kind](*values)
    except (ValueError, KeyError, TypeError):  # of a later version
        return None
    return made  # type: ignore[no-any-return]
