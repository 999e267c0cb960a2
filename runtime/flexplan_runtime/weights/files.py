"""Files of stored tensors: where each tensor's bytes are, and reading them with plain positioned reads.

Headers are parsed here, as data: nothing is unpickled, and nothing is mapped into memory, where a file cut
short under a run would end the process.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch

from flexplan.errors import StorageError
from flexplan.model import read_header, what_it_is

T = TypeVar("T")

_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_NPY_DTYPES = {"<f8": torch.float64, "<f4": torch.float32, "<f2": torch.float16}
_MOST_DIMENSIONS = 16
_MOST_ELEMENTS = 1 << 48  # of one dimension
_OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe with no writer must not hang the open


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A regular file as it was when its header was read; it must still be that file at each read."""

    path: Path
    size: int
    identity: tuple[int, int, int]  # device, inode, time of change in ns

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` from `offset` on; StorageError if the file was altered or ends early."""
        try:
            fd = os.open(self.path, _OPEN_FLAGS)
            try:
                self._check(os.fstat(fd))
                self._fill(fd, offset, view)
            finally:
                os.close(fd)
        except OSError as error:
            raise StorageError(
                "FP613", f"{self.path}: cannot be read: {error.strerror}", fix="check the disk and run again"
            ) from error

    def _check(self, found: os.stat_result) -> None:
        if (found.st_size, _identity(found)) != (self.size, self.identity):
            raise StorageError(
                "FP611",
                f"{self.path}: the file changed since it was checked: {found.st_size} bytes now, {self.size} then",
                fix="leave the model files alone while they are in use, and run again",
            )

    def _fill(self, fd: int, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            got = os.preadv(fd, [view[done:]], offset + done)
            if not got:
                raise StorageError(
                    "FP612",
                    f"{self.path}: short read: {done} of {len(view)} bytes at {offset}",
                    fix="the file was cut while in use; download the model again",
                )
            done += got


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file: row-major elements from `offset` on; `dtype` is None where it is not a float."""

    file: WeightFile
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    dtype_name: str


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a .safetensors file by name; ValueError says what is wrong with it."""
    return _read_header(path, _safetensors)


def read_npy(path: Path) -> StoredTensor:
    """The tensor of a .npy file; ValueError says what is wrong with it."""
    return _read_header(path, _npy)


def _read_header(path: Path, parse: Callable[[WeightFile, BinaryIO], T]) -> T:
    try:
        with os.fdopen(os.open(path, _OPEN_FLAGS), "rb") as opened:
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
        name: StoredTensor(file, at.begin, at.shape, _SAFETENSORS_DTYPES.get(at.dtype_name), at.dtype_name)
        for name, at in read_header(opened, file.size).items()
    }


def _npy(file: WeightFile, opened: BinaryIO) -> StoredTensor:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    beginning = what_it_is(opened.read(64))
    if beginning:
        raise ValueError(f"is {beginning}")
    opened.seek(0)
    version = np.lib.format.read_magic(opened)
    if version not in readers:
        raise ValueError(f"is a .npy file of version {version}, known are 1.0 and 2.0")
    try:
        shape, fortran_order, dtype = readers[version](opened)
    except ValueError:
        raise
    except Exception as error:  # its parser is Python's, which brackets and keys of all kinds lead astray
        raise ValueError("header is malformed") from error
    if len(shape) > _MOST_DIMENSIONS or not all(0 <= n <= _MOST_ELEMENTS for n in shape):
        raise ValueError(f"its shape is none of at most {_MOST_DIMENSIONS} whole numbers")
    if fortran_order and len(shape) > 1:
        raise ValueError("is stored column by column, save it with numpy.ascontiguousarray")
    needed = opened.tell() + prod(shape) * dtype.itemsize
    if needed != file.size:
        raise ValueError(f"is truncated or too long: {file.size} bytes, its header needs {needed}")
    return StoredTensor(file, opened.tell(), shape, _NPY_DTYPES.get(dtype.str), dtype.str)
