"""Lines of an input: read once as a stream, then found again where they stand; what cannot be read twice is copied."""

from __future__ import annotations

import shutil
import sys
import tempfile
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from flexplan.errors import PromptError
from flexplan.limits import regular

MOST_LINE_BYTES = 8 << 20  # a million tokens of text
MOST_SKIPPED_BYTES = 1 << 30  # of a longer line that fails alone; what has no end is no line

_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
_MARKS = {b"PAR1": "Parquet", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"PK\x03\x04": "zip"}


class Line(NamedTuple):
    """A line that is not blank: its number from 1, the byte that its text begins at, and the bytes of the text.

    Of one that is too long only the beginning.
    """

    number: int
    offset: int
    raw: bytes

    @property
    def text(self) -> str:
        """Raises PromptError for what is no text, or too long."""
        if len(self.raw) > MOST_LINE_BYTES:
            message = f"line {self.number} is longer than {MOST_LINE_BYTES >> 20} MiB"
            raise PromptError("FP315", message, fix="a prompt is a line: put a line feed after each")
        return _decoded(self.raw, self.number)


def _unpacked(file: BinaryIO) -> BinaryIO:
    import gzip  # few inputs are packed

    return cast(BinaryIO, gzip.GzipFile(fileobj=file))


class Input:
    """The bytes of an input, at any place: a file, or a copy without a name of a pipe or of what was packed by gzip."""

    def __init__(self, file: BinaryIO) -> None:
        """``file`` can be read at any place, and is held open from now on."""
        packed = file.read(2) == _GZIP
        file.seek(0)
        self._file = _nameless() if packed else file
        self._source = _unpacked(file) if packed else file

    @classmethod
    def of(cls, source: str | Path) -> Input:
        """A file, ``-`` is standard input; raises OSError and ValueError."""
        if str(source) == "-":
            return cls(_copied(sys.stdin.buffer))
        file = open(str(source), "rb", opener=regular)  # noqa: SIM115 - held
        return cls(file if file.seekable() else _copied(file))

    def lines(self) -> Iterator[Line]:
        """All lines but blank ones, once; only a line feed ends one.  Raises PromptError for another kind of file."""
        number = offset = 0
        while raw := self._source.readline(MOST_LINE_BYTES + 3):  # with its end: a line of the most bytes has room
            number += 1
            if number == 1:
                _refuse_other_kind(raw)
            begin = len(_BOM) if number == 1 and raw.startswith(_BOM) else 0
            body = raw[begin:].removesuffix(b"\n").removesuffix(b"\r")
            if body.decode(errors="replace").strip():
                yield Line(number, offset + begin, body)
            self._copy(raw)
            offset += len(raw) + self._skipped(raw, number)

    def _copy(self, raw: bytes) -> None:
        if self._source is not self._file:
            self._file.write(raw)

    def _skipped(self, raw: bytes, number: int) -> int:
        """Bytes of what is left of a line that is too long."""
        count = 0
        while not raw.endswith(b"\n") and (raw := self._source.readline(MOST_LINE_BYTES)):
            self._copy(raw)
            count += len(raw)
            if count > MOST_SKIPPED_BYTES:
                message = f"line {number} is longer than {MOST_SKIPPED_BYTES >> 20} MiB"
                raise PromptError("FP315", message, fix="this is no file of lines: put a line feed after each prompt")
        return count

    def at(self, offset: int, nbytes: int) -> bytes:
        """What stands there."""
        self._file.seek(offset)
        return self._file.read(nbytes)


class LineIndex:
    """Where lines of an input stand: 20 bytes each.  Each is read again when it is looked at."""

    def __init__(self, source: Input) -> None:
        self._source = source
        self._numbers, self._offsets, self._sizes, self._checks = array("Q"), array("Q"), array("I"), array("I")

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, line: Line) -> None:
        """One more."""
        self._numbers.append(line.number)
        self._offsets.append(line.offset)
        self._sizes.append(len(line.raw))
        self._checks.append(zlib.crc32(line.raw))

    def line(self, at: int) -> Line:
        """As it was; raises PromptError where it is not what it was."""
        raw = self._source.at(self._offsets[at], self._sizes[at])
        if zlib.crc32(raw) != self._checks[at]:
            message = f"line {self._numbers[at]} is not what it was when the prompts were read"
            raise PromptError("FP322", message, fix="leave the file as it is until the job ends")
        return Line(self._numbers[at], self._offsets[at], raw)


def input_of(lines: Iterator[bytes]) -> Input:
    """Lines that are made here, as an input."""
    file = _nameless()
    file.writelines(line + b"\n" for line in lines)
    return Input(file)


def _nameless() -> BinaryIO:
    return cast(BinaryIO, tempfile.TemporaryFile())


def _copied(stream: BinaryIO) -> BinaryIO:
    copy = _nameless()
    shutil.copyfileobj(stream, copy)
    copy.seek(0)
    return copy


def _refuse_other_kind(first: bytes) -> None:
    kind = next((name for mark, name in _MARKS.items() if first.startswith(mark)), None)
    if kind:
        raise PromptError("FP316", f"this is {kind}, not lines of text", fix="unpack or convert it first")


def _decoded(raw: bytes, number: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x} at {error.start}"
        message = f"line {number}: {byte} is not UTF-8, allowed is UTF-8 text"
        raise PromptError("FP311", message, fix="convert the file: iconv -t UTF-8") from None
