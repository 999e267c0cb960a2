"""Files a command writes: refused before the work where they cannot be, whole or not at all after it, never lost."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from flexplan.cli.progress import note
from flexplan.cli.streams import pour
from flexplan.errors import StorageError, UsageError
from flexplan.files import probe, write_whole
from flexplan.report.answers import answers
from flexplan.units import format_size

_FIX = "choose another path"
_NUMBERED = re.compile(rf"(?:/dev/fd|/proc/(?:self|thread-self|{os.getpid()})/fd)/(\d+)")
_MOST_LINKS = 40
_PIECE_CHARACTERS = 1 << 20
_READER_S = 10.0  # how long a named pipe may have nobody at its other end


# -- before the work ---------------------------------------------------------------------------------------------
def refuse_unwritable(path: Path, inputs: Iterable[str | Path | None] = (), at_least_bytes: int = 0) -> None:
    """Raise where ``path`` could not be written, is one of the ``inputs``, or has no room for ``at_least_bytes``.

    ``-`` is standard output; so are /dev/stdout and /dev/fd/N what is open under that number.
    """
    number = _descriptor(path)
    if number is not None:
        _refuse_closed(path, number)
    else:
        _refuse_path(path, at_least_bytes)
    _refuse_input(path, number, [given for given in inputs if given is not None])


def refuse_closed_output() -> None:
    """Raise where a long command could say its answer nowhere."""
    refuse_unwritable(Path("-"))


def refuse_existing(path: Path) -> None:
    """Raise UsageError where something is in the file already."""
    if _descriptor(path) is None and _old_bytes(path):
        message = f"output {path} exists, with {format_size(_old_bytes(path))} in it"
        fix = "give --resume to go on with that job, --overwrite to replace it, or choose another path"
        raise UsageError("FP170", message, fix=fix)


def refuse_same(path: Path, other: Path) -> None:
    """Raise UsageError where two outputs would be written to one place."""
    if (_descriptor(path), _resolved(path)) == (_descriptor(other), _resolved(other)):
        raise UsageError("FP184", f"two outputs are one file: {path} and {other}", fix="choose another path for one")


def is_kept(path: Path) -> bool:
    """Is this a file, there or yet to be made, not a stream or a device?"""
    return _descriptor(path) is None and not _is_special(_resolved(path))


def say_replaced(path: Path) -> None:
    """Say that what is in a file is being replaced."""
    if _old_bytes(path):
        note(f"{path} was there, {format_size(_old_bytes(path))}, and is replaced")


def _refuse_closed(path: Path, number: int) -> None:
    try:
        mode = fcntl.fcntl(_real(number), fcntl.F_GETFL) & os.O_ACCMODE
    except ValueError:  # a stand-in that is no file of the system
        return
    except OSError:
        raise UsageError("FP164", f"output {path} is not open", fix=_FIX) from None
    if mode == os.O_RDONLY:
        raise UsageError("FP164", f"output {path} is closed, or open for reading only", fix=_FIX)


def _refuse_path(path: Path, at_least_bytes: int) -> None:
    target = _resolved(path)
    if target.is_dir():
        raise UsageError("FP164", f"output {path} is a directory, must be a file", fix=_FIX)
    if target.is_block_device() or target.is_socket():
        raise UsageError("FP164", f"output {path} is a disk or a socket, must be a file", fix=_FIX)
    if target.exists() and not os.access(target, os.W_OK):
        raise UsageError("FP164", f"output {path} may not be written", fix=_FIX)
    if _is_special(target):
        return
    try:
        probe(target)
    except OSError as error:
        raise UsageError("FP164", f"output {path} cannot be written: {error.strerror}", fix=_FIX) from None
    _refuse_full(path, target.parent, at_least_bytes)


def _refuse_full(path: Path, directory: Path, at_least_bytes: int) -> None:
    there = os.statvfs(directory)
    free = there.f_frsize * (there.f_bfree if os.geteuid() == 0 else there.f_bavail)
    if free < at_least_bytes:
        message = (
            f"output {path} will have {format_size(at_least_bytes)} or more, its disk has {format_size(free)} left"
        )
        raise StorageError("FP615", message, fix="make room, or choose a path on another disk")


def _refuse_input(path: Path, number: int | None, inputs: list[str | Path]) -> None:
    """By what the system says is the same file: another name, a link or a number of it is no other file."""
    try:
        found = path.stat() if number is None else os.fstat(_real(number))
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(found.st_mode):
        return
    for given in inputs:
        if any(os.path.samestat(found, one) for one in _stats(given)):
            message = f"output {path} is also an input: {given}"
            raise UsageError("FP171", message, fix="choose another path for the output")


def _stats(given: str | Path) -> Iterator[os.stat_result]:
    """Of a file, or of each file in a directory."""
    with suppress(OSError, ValueError):
        if str(given) == "-":
            yield os.fstat(0)
            return
        path = Path(given).expanduser()
        for one in path.iterdir() if path.is_dir() else (path,):
            with suppress(OSError):
                yield one.stat()


# -- after the work ----------------------------------------------------------------------------------------------
def deliver(path: Path, text: str, places: Iterable[Path] = ()) -> None:
    """Write what was computed; where that fails keep it in the first of ``places`` that has room, and name it."""
    old_bytes = 0 if _descriptor(path) is not None else _old_bytes(path)
    try:
        write_text(path, text)
    except StorageError as error:
        kept = rescue(path, text, places)
        if kept is None:
            raise
        message = f"{error.message}; what was computed is kept in {kept}"
        raise StorageError(error.code, message, fix="move that file to where there is room") from error
    if old_bytes:
        note(f"{path} was there, {format_size(old_bytes)}, and is replaced")


def deliver_lines(path: Path, lines: Callable[[], Iterable[str]], places: Iterable[Path] = ()) -> None:
    """The same of many lines to what is no file, some at a time; ``lines`` gives them all, whenever it is asked."""
    number = _descriptor(path)
    try:
        if number == 1:
            save(path, lambda _: _pour_each(lines()))
        else:
            save(path, lambda _: _write_each(_opened(path) if number is None else os.dup(number), lines()))
    except StorageError as error:
        kept = rescue(path, "".join(lines()), places)
        if kept is None:
            raise
        message = f"{error.message}; what was computed is kept in {kept}"
        raise StorageError(error.code, message, fix="move that file to where there is room") from error


def _together(lines: Iterable[str]) -> Iterator[str]:
    """Lines in pieces that are worth a call."""
    waiting, size = list[str](), 0
    for line in lines:
        waiting.append(line)
        size += len(line)
        if size >= _PIECE_CHARACTERS:
            yield "".join(waiting)
            waiting, size = [], 0
    yield "".join(waiting)


def _pour_each(lines: Iterable[str]) -> None:
    for some in _together(lines):
        pour(some)


def _write_each(handle: int, lines: Iterable[str]) -> None:
    try:
        for some in _together(lines):
            _write_open(os.dup(handle), some)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; a device or pipe as it comes, ``-`` to standard output."""
    number = _descriptor(path)
    if number == 1:
        save(path, lambda _: pour(text))
    elif number is not None:
        save(path, lambda _: _write_open(os.dup(number), text))
    elif _is_special(path):
        save(path, lambda special: _write_open(_opened(special), text))
    else:
        save(path, lambda _: write_whole(path.resolve(), text))


def save(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with the path; the system's refusal is a StorageError."""
    try:
        write(path)
    except OSError as error:
        name = "standard output" if _descriptor(path) == 1 else path
        raise StorageError("FP610", f"{name} cannot be written: {error.strerror or error}", fix=_FIX) from error


def _write_open(handle: int, text: str) -> None:
    with os.fdopen(handle, "wb", buffering=0) as file:
        left = memoryview(text.encode())
        while left:
            left = left[file.write(left) :]


def _opened(special: Path) -> int:
    """A device, or a named pipe once somebody reads it: waiting for that has an end."""
    deadline_s = time.monotonic() + _READER_S
    while True:
        try:
            handle = os.open(special, os.O_WRONLY | os.O_NONBLOCK)
            os.set_blocking(handle, True)
            return handle
        except OSError:
            if not special.is_fifo() or time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)


def rescue(path: Path, text: str, places: Iterable[Path]) -> Path | None:
    """A file of the user's own beside the output, in one of the places, in the state directory or in the temporary."""
    beside = () if _descriptor(path) is not None or _is_special(path) else (path.parent,)
    for place in (*beside, *places, _state_directory(), Path(tempfile.gettempdir())):
        with suppress(OSError):
            return _kept_in(place.expanduser().absolute(), text, path.suffix)
    return None


def _kept_in(place: Path, text: str, suffix: str) -> Path:
    handle, name = tempfile.mkstemp(dir=place, prefix="flexplan-rescued-", suffix=suffix)
    try:
        _write_open(os.dup(handle), text)
        os.fsync(handle)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    return Path(name)


def _state_directory() -> Path:
    found = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "flexplan"
    with suppress(OSError):
        found.mkdir(parents=True, exist_ok=True, mode=0o700)
    return found


# -- what a path is ----------------------------------------------------------------------------------------------
def _descriptor(path: Path) -> int | None:
    """The number of an open file that a path stands for, through any links; None for a path of the file system.

    Opening such a name anew would begin at its start, over what is there, or fail.
    """
    if str(path) == "-":
        return 1
    at = path.absolute()
    for _ in range(_MOST_LINKS):
        numbered = _NUMBERED.fullmatch(os.path.normpath(at))
        if numbered:
            return int(numbered.group(1))
        try:
            if not at.is_symlink():
                return None
        except OSError as error:  # a name too long, a directory that may not be looked into
            raise UsageError("FP164", f"output {path} cannot be written: {error.strerror}", fix=_FIX) from None
        at = at.parent / at.readlink()
    return None


def _real(number: int) -> int:
    """Answers have a number of their own."""
    return answers().fileno() if number == 1 else number


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        raise UsageError("FP164", f"output {path} is a link that leads to itself", fix=_FIX) from None


def _old_bytes(path: Path) -> int:
    try:
        found = path.stat()
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _is_special(path: Path) -> bool:
    """A device or a pipe: renaming a file over it would destroy it."""
    return path.exists() and not path.is_file() and not path.is_dir()
