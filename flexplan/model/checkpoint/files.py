"""The tensors of a safetensors file as its header names them, with the file as it was then."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from flexplan.model.header import FLOATS, read_header

T = TypeVar("T")

OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe with no writer must not hang the open


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A regular file as it was when its header was read; it must still be that file at each read."""

    path: Path
    size: int
    identity: tuple[int, int, int]  # device, inode, time of change in ns

    def is_still(self, found: os.stat_result) -> bool:
        """Whether what the system says now is what it said then."""
        return (found.st_size, _identity(found)) == (self.size, self.identity)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file: row-major elements from `offset` on; `dtype` is None where it is no float."""

    file: WeightFile
    offset: int
    shape: tuple[int, ...]
    dtype: str | None
    dtype_name: str


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a .safetensors file by name; ValueError says what is wrong with it."""
    return read_with(path, _safetensors)


def read_with(path: Path, parse: Callable[[WeightFile, BinaryIO], T]) -> T:
    """What `parse` makes of a regular file; ValueError says what is wrong with it."""
    try:
        with os.fdopen(os.open(path, OPEN_FLAGS), "rb") as opened:
            found = os.fstat(opened.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ValueError("is not a regular file")
            return parse(WeightFile(path, found.st_size, _identity(found)), opened)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error


def _identity(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _safetensors(file: WeightFile, opened: BinaryIO) -> dict[str, StoredTensor]:
    return {
        name: StoredTensor(file, at.begin, at.shape, FLOATS.get(at.dtype_name), at.dtype_name)
        for name, at in read_header(opened, file.size).items()
    }
