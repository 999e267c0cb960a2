"""JSON without its traps: no duplicate keys, no NaN or Infinity; files are replaced whole or not at all."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from flexplan.limits import shown

_PART = ".flexplan-part"  # of a name: nobody else's files are taken for leftovers
_NAME = 40  # letters of a file's name in that of its part, which may not be too long either
_OPEN_FLAGS = os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
_TO_ESCAPE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def parse_json(text: str) -> Any:
    """What a JSON text says; a ValueError names the duplicate key or the number that is not one.

    >>> parse_json('{"cores": 16}')
    {'cores': 16}
    """
    try:
        found = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
        if "\\u" in text:
            json.dumps(found, ensure_ascii=False).encode()  # half a character pair can be written nowhere
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("an escape is half of a surrogate pair, no character") from None
    return found


def json_line(found: Any) -> str:
    """One line of JSON: letters as they are, but escaped what ends a line somewhere, moves a terminal, or is no letter.

    >>> json_line({"text": "Grüße"})
    '{"text": "Grüße"}'
    """
    text = json.dumps(found, ensure_ascii=False)
    return _TO_ESCAPE.sub(lambda letter: f"\\u{ord(letter[0]):04x}", text)


def parse_lenient(text: str) -> Any:
    """The same of a text that Python or Windows wrote: NaN, Infinity and a byte order mark are let pass.

    >>> parse_lenient('\\ufeff{"limit": Infinity}')
    {'limit': inf}
    """
    try:
        return json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_file(name: str | Path) -> bool:
    """Whether a text names a file; False, where Path raises, for a text that could name none."""
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


def is_directory(name: str | Path) -> bool:
    """Whether a text names a directory."""
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):
        return False


def write_whole(path: str | Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never a half."""
    with replacing(Path(path)) as out:
        out.write(text.encode())


@contextmanager
def replacing(path: Path, *, synced: bool = True) -> Iterator[BinaryIO]:
    """A file that takes its place when all of it is written, or leaves nothing; ``synced``: on the disk before.

    It is as readable as the one that it replaces, else as any new file.
    """
    remove_leftovers(path.parent)
    handle, part = _locked_part(path)
    with os.fdopen(handle, "wb") as out:
        try:
            yield out
            out.flush()
            if path.exists():
                os.fchmod(handle, path.stat().st_mode & 0o777)
            if synced:
                os.fsync(handle)
            part.replace(path)  # while it is still locked
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def workshop(parent: Path) -> Iterator[Path]:
    """A directory that only its owner may use, gone afterwards; one that a killed process left goes first."""
    remove_leftovers(parent)
    handle, folder = _locked_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def probe(path: Path) -> None:
    """Raise OSError where `replacing` could not begin; leaves nothing."""
    remove_leftovers(path.parent)
    handle, part = _locked_part(path)
    part.unlink()
    os.close(handle)


def remove_leftovers(directory: Path) -> None:
    """Remove the parts of files, and the workshops, that killed processes left.

    Each is locked by its process. The lock ends with the process, however that ends and in whichever container it ran.
    """
    for part in directory.glob(f".*{_PART}"):
        with suppress(OSError):  # its writer lives, it is another user's, or gone by now
            handle = os.open(part, (os.O_RDONLY if part.is_dir() else os.O_RDWR) | _OPEN_FLAGS)
            try:
                flock(handle, LOCK_EX | LOCK_NB)
                shutil.rmtree(part) if part.is_dir() else part.unlink()
            finally:
                os.close(handle)


def _locked_part(path: Path) -> tuple[int, Path]:
    """A new part of a file, open and locked."""
    while True:
        part = path.with_name(f".{path.name[:_NAME]}.{secrets.token_hex(4)}{_PART}")
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # a file system without locks: there, nobody takes it for a leftover either
            flock(handle, LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, part
        os.close(handle)  # taken for a leftover before it was locked


def _locked_folder(parent: Path) -> tuple[int, Path]:
    """The same of a directory."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=".", suffix=_PART))
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        with suppress(OSError):
            flock(handle, LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, folder
        os.close(handle)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {shown(key)} stands there twice")
        found[key] = value
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that can be used")
