"""The files of a job: the output, the failed requests, and the log beside them; a journal's system calls.

Writes that fall short are finished, interrupted ones repeated (by Python); what the system refuses is a StorageError.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Protocol

from flexplan.errors import OutputHeld, StorageError
from flexplan.files import replacing

OUT, ERRORS, LOG = "out", "errors", "log"
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_RESUMABLE = "make room and go on with --resume"


class Handle(Protocol):
    """An open file that grows at its end."""

    def size(self) -> int:
        """Bytes."""

    def read(self, offset: int, nbytes: int) -> bytes:
        """What is there, fewer bytes at the end."""

    def append(self, data: bytes) -> None:
        """All of it, or StorageError; a part may then be there."""

    def truncate(self, nbytes: int) -> None:
        """Cut off what is behind."""

    def sync(self) -> None:
        """Onto the disk."""

    def is_gone(self) -> bool:
        """Has its name been taken away, or given to another file?"""

    def close(self) -> None:
        """Closed, and not locked any more."""


class Store(Protocol):
    """Where a job's files are."""

    def exists(self, name: str) -> bool:
        """Is there a file of this name?"""

    def open(self, name: str) -> Handle:
        """The file, made where there is none."""

    def lock(self, name: str) -> Handle | None:
        """The file, held by this process until it is closed; None where another process holds it."""

    def read(self, name: str) -> bytes:
        """A whole file, of whoever; nothing where there is none."""

    def replace(self, name: str, chunks: Iterable[bytes]) -> None:
        """A new file of this content in the place of the old one, on the disk; whole or not at all."""

    def remove(self, name: str) -> None:
        """Not there any more."""

    def sync_names(self) -> None:
        """That files were made, onto the disk."""


def hold_output(store: Store) -> Handle:
    """The output, which no other run may have under another name: of a hard link the log is another one."""
    handle = store.lock(OUT)
    if handle is None:
        message = "the output is being written by another run, under another name of the same file"
        raise OutputHeld("FP1204", message, fix="wait for it, or choose another output")
    return handle


def log_path(out: Path) -> Path:
    """Where the log of an output is."""
    return out.with_name(f"{out.name}.job")


def errors_path(out: Path) -> Path:
    """Where an output's failed requests are: of no two outputs the same.

    >>> [errors_path(Path(name)).name for name in ("answers.jsonl", "answers")]
    ['answers.errors.jsonl', 'answers.errors']
    """
    if out.suffix == ".jsonl":
        return out.with_name(f"{out.stem}.errors.jsonl")
    return out.with_name(f"{out.name}.errors")


def is_beside(out: Path) -> bool:
    """Would this output have the name of what lies beside another one?"""
    return out.name.endswith((".job", ".errors", ".errors.jsonl"))


class FileStore:
    """A job's files beside its output, which may be a link."""

    def __init__(self, out: Path) -> None:
        out = out.resolve()
        self.paths = {OUT: out, ERRORS: errors_path(out), LOG: log_path(out)}

    def exists(self, name: str) -> bool:
        return self.paths[name].exists()

    def open(self, name: str) -> FileHandle:
        return FileHandle(self.paths[name])

    def lock(self, name: str) -> FileHandle | None:
        while True:
            handle = self.open(name)
            if not handle.lock():
                handle.close()
                return None
            if not handle.is_gone():  # removed by who held it, after we opened it
                return handle
            handle.close()

    def read(self, name: str) -> bytes:
        path = self.paths[name]
        with _stored(path, "read"):
            return path.read_bytes() if path.exists() else b""

    def replace(self, name: str, chunks: Iterable[bytes]) -> None:
        with _stored(self.paths[name], "rewritten"):
            with replacing(self.paths[name]) as out:
                out.writelines(chunks)
            self.sync_names()

    def remove(self, name: str) -> None:
        with _stored(self.paths[name], "removed"):
            self.paths[name].unlink(missing_ok=True)

    def sync_names(self) -> None:
        directory = self.paths[OUT].parent
        with _stored(directory, "synced"):
            handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


class FileHandle:
    """A file of the system, open for appending."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _stored(path, "opened"):
            self._fd = os.open(path, _FLAGS, 0o666)

    def lock(self) -> bool:
        """Hold it alone; on a file system without locks nobody is kept out."""
        try:
            flock(self._fd, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def read(self, offset: int, nbytes: int) -> bytes:
        found = b""
        with _stored(self.path, "read"):
            while len(found) < nbytes and (more := os.pread(self._fd, nbytes - len(found), offset + len(found))):
                found += more
        return found

    def append(self, data: bytes) -> None:
        try:  # twice a request: no context manager
            done = os.write(self._fd, data)
            while done < len(data):
                done += os.write(self._fd, memoryview(data)[done:])
        except OSError as error:
            raise _refused(self.path, "written", error) from error

    def truncate(self, nbytes: int) -> None:
        with _stored(self.path, "cut off"):
            os.ftruncate(self._fd, nbytes)

    def sync(self) -> None:
        with _stored(self.path, "synced"):
            os.fsync(self._fd)

    def is_gone(self) -> bool:
        try:
            return not os.path.samestat(os.fstat(self._fd), self.path.stat())
        except OSError:
            return True

    def close(self) -> None:
        with _stored(self.path, "closed"):
            os.close(self._fd)


@contextmanager
def _stored(path: Path, verb: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _refused(path, verb, error) from error


def _refused(path: Path, verb: str, error: OSError) -> StorageError:
    return StorageError("FP616", f"{path} cannot be {verb}: {error.strerror or error}", fix=_RESUMABLE)
