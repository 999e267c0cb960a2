"""Reading the bytes of stored tensors with plain positioned reads, and the headers of .npy files.

Headers are parsed as data: nothing is unpickled, and nothing is mapped into memory, where a file cut short under a run
would end the process.
"""

from __future__ import annotations

import os
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from flexplan.errors import StorageError
from flexplan.model.checkpoint import OPEN_FLAGS, StoredTensor, WeightFile, read_with
from flexplan.model.header import what_it_is

CHUNK_BYTES = 64 << 20  # read at a time where what is read is not yet what is wanted
_NPY_DTYPES = {"<f8": "float64", "<f4": "float32", "<f2": "float16"}
_MOST_DIMENSIONS = 16
_MOST_ELEMENTS = 1 << 48  # of one dimension


def read_into(file: WeightFile, offset: int, view: memoryview) -> None:
    """Fill `view` from `offset` of a file on; StorageError if the file was altered or ends early."""
    try:
        fd = os.open(file.path, OPEN_FLAGS)
        try:
            _check(file, os.fstat(fd))
            _fill(file, fd, offset, view)
        finally:
            os.close(fd)
    except OSError as error:
        raise StorageError(
            "FP613", f"{file.path}: cannot be read: {error.strerror}", fix="check the disk and run again"
        ) from error


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor of the host, to be read into."""
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())


def _check(file: WeightFile, found: os.stat_result) -> None:
    if not file.is_still(found):
        raise StorageError(
            "FP611",
            f"{file.path}: the file changed since it was checked: {found.st_size} bytes now, {file.size} then",
            fix="leave the model files alone while they are in use, and run again",
        )


def _fill(file: WeightFile, fd: int, offset: int, view: memoryview) -> None:
    done = 0
    while done < len(view):
        got = os.preadv(fd, [view[done:]], offset + done)
        if not got:
            raise StorageError(
                "FP612",
                f"{file.path}: short read: {done} of {len(view)} bytes at {offset}",
                fix="the file was cut while in use; download the model again",
            )
        done += got


def read_npy(path: Path) -> StoredTensor:
    """The tensor of a .npy file; ValueError says what is wrong with it."""
    return read_with(path, _npy)


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
