"""Lines of an input: read once as a stream, then found again where they stand; what cannot be read twice is copied."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from flexplan.errors import PromptError
from flexplan.limits import regular

MOST_LINE_BYTES = 8 << 20  # a million tokens of text

_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
_MARKS = {b"PAR1": "Parquet", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"PK\x03\x04": "zip"}


class Line(NamedTuple):
    """A line that is not blank: its number from 1, the byte that its text begins at, and the text."""

    number: int
    offset: int
    text: str


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
        """All lines but blank ones, once; only a line feed ends a line.  Raises PromptError for what is no text."""
        number = offset = 0
        while raw := self._source.readline(MOST_LINE_BYTES + 1):
            number += 1
            if number == 1:
                _refuse_other_kind(raw)
            if len(raw) > MOST_LINE_BYTES:
                message = f"line {number} is longer than {MOST_LINE_BYTES >> 20} MiB"
                raise PromptError("FP315", message, fix="a prompt is a line: put a line feed after each")
            if self._source is not self._file:
                self._file.write(raw)
            body = raw.removeprefix(_BOM) if number == 1 else raw
            text = _decoded(body.removesuffix(b"\n").removesuffix(b"\r"), number)
            if text.strip():
                yield Line(number, offset + len(raw) - len(body), text)
            offset += len(raw)

    def text(self, offset: int, nbytes: int) -> bytes:
        """What stands there."""
        self._file.seek(offset)
        return self._file.read(nbytes)


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
