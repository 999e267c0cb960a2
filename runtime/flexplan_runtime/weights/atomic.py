"""Files of a directory that processes share: whole or not at all, and what killed writers left is removed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from flexplan import files


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file with a checksum of its own, in a directory that is made where there is none; it need not be synced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path, synced=False) as out:
        yield out
