"""Files that appear whole or not at all, in a directory that processes share.

A part of a file has a name of its own until all of it is written, and its writer locks it.  The lock ends with the
writer, however that ends (``kill -9``, too), in whichever container it ran: a part that nobody locks is a leftover, and
the next writer removes it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import BinaryIO

_PART = ".part"
_OPEN_FLAGS = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its place when all of it is written, or leaves nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    handle, part = _locked_part(path)
    with os.fdopen(handle, "wb") as out:
        try:
            yield out
            out.flush()
            part.chmod(0o644)  # others may read it, as they may a model
            part.replace(path)  # while it is still locked
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def remove_leftovers(directory: Path) -> None:
    """Remove the parts that writers left when they were killed."""
    for part in directory.glob(f".*{_PART}"):
        with suppress(OSError):  # its writer lives, it is another user's, or gone by now
            handle = os.open(part, _OPEN_FLAGS)
            try:
                flock(handle, LOCK_EX | LOCK_NB)
                part.unlink()
            finally:
                os.close(handle)


def _locked_part(path: Path) -> tuple[int, Path]:
    """A new part of a file, open and locked."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PART)
        with suppress(OSError):  # a file system without locks: there, nobody takes it for a leftover either
            flock(handle, LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # taken for a leftover before it was locked
