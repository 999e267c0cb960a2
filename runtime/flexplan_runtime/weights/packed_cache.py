"""Packed weights kept on disk: a tensor is quantised once, and later openings read its bytes.

One file a tensor, in a folder named after the checkpoint:

    packed bytes, in chunks of whole grains  |  CRC-32 of each chunk, 4 bytes each  |  key, 32 bytes

The key is a digest of all that the bytes follow from.  What stands at a file's name is whole, and processes may share
the directory: the last to write wins, with the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

import torch
from torch import Tensor

from flexplan.files import replacing
from flexplan.model import Coding, WeightTensor
from flexplan.placement import Piece
from flexplan_runtime.weights.checkpoint import WeightReader
from flexplan_runtime.weights.packed import chunk_rows, quantised, read_packed

_VERSION = 1  # of the layout, and of what quantising makes of the same numbers
_OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe with no writer must not hang the open


class PackedFiles:
    """The packed tensors below a directory; what is not there, or not right, is quantised and written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._writable = True
        self._lock = threading.Lock()

    def read(self, reader: WeightReader, piece: Piece, out: Tensor, dtype: torch.dtype) -> None:
        """As `read_packed` does it; warns of a damaged file, and once where files cannot be written."""
        if reader.identity is None or isinstance(piece.tensor.packing, Coding):
            return read_packed(reader, piece, out, dtype)
        file = PackedFile.of(self.directory, reader.identity, piece.tensor, dtype)
        if self._taken(file, piece, out) or (self._made(file, reader) and self._taken(file, piece, out)):
            return None
        return read_packed(reader, piece, out, dtype)

    def _taken(self, file: PackedFile, piece: Piece, out: Tensor) -> bool:
        try:
            file.read_into(piece.row_lo, piece.rows, out)
        except FileNotFoundError:
            return False
        except (OSError, ValueError) as error:
            warnings.warn(f"{file.path}: {_reason(error)}; its weights are quantised again", stacklevel=2)
            return False
        return True

    def _made(self, file: PackedFile, reader: WeightReader) -> bool:
        if not self._writable:
            return False
        try:
            file.write(reader)
        except OSError as error:
            with self._lock:
                first, self._writable = self._writable, False
            if first:
                message = f"{self.directory}: packed weights cannot be kept there: {_reason(error)}"
                warnings.warn(message, stacklevel=2)
            return False
        return True


@dataclass(frozen=True, slots=True)
class PackedFile:
    """The file of one tensor; ``key`` is what it must end with."""

    path: Path
    key: bytes
    tensor: WeightTensor
    dtype: torch.dtype

    @classmethod
    def of(cls, directory: Path, identity: str, tensor: WeightTensor, dtype: torch.dtype) -> PackedFile:
        """Where a tensor of the checkpoint of this identity is kept."""
        key = hashlib.sha256(repr((_VERSION, identity, tensor, dtype)).encode())
        name = f"{tensor.layer}.{tensor.name}.{key.hexdigest()[:16]}"
        return cls(directory / identity / name, key.digest(), tensor, dtype)

    def write(self, reader: WeightReader) -> None:
        """Quantise the whole tensor into the file."""
        tensor, step, sums = self.tensor, chunk_rows(self.tensor), []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path, synced=False) as out:  # it has checksums of its own
            for row in range(0, tensor.rows, step):
                chunk = quantised(reader, tensor, row, min(step, tensor.rows - row), self.dtype).numpy()
                sums.append(crc32(chunk))
                out.write(chunk)
            out.write(struct.pack(f"<{len(sums)}I", *sums) + self.key)

    def read_into(self, row_lo: int, rows: int, out: Tensor) -> None:
        """The bytes of these rows, from a grain's beginning on; OSError or ValueError where they are not to be had."""
        at, step, row_hi = self.tensor.rows_bytes, chunk_rows(self.tensor), row_lo + rows
        with os.fdopen(os.open(self.path, _OPEN_FLAGS), "rb") as file:
            sums = self._sums(file)
            for low in range(row_lo // step * step, row_hi, step):
                chunk = self._chunk(file, low, sums[low // step])
                first, last = max(low, row_lo), min(low + step, row_hi)
                out[at(first) - at(row_lo) : at(last) - at(row_lo)].copy_(
                    chunk[at(first) - at(low) : at(last) - at(low)]
                )

    def _sums(self, file: BinaryIO) -> tuple[int, ...]:
        """The CRC-32 of every chunk."""
        count = -(-self.tensor.rows // chunk_rows(self.tensor))
        size, needed = os.fstat(file.fileno()).st_size, self.tensor.nbytes + 4 * count + len(self.key)
        if size != needed:
            raise ValueError(f"has {size} bytes, must have {needed}")
        file.seek(self.tensor.nbytes)
        *sums, key = struct.unpack(f"<{count}I{len(self.key)}s", file.read())
        if key != self.key:
            raise ValueError("holds other weights, or weights packed in another way")
        return tuple(sums)

    def _chunk(self, file: BinaryIO, row: int, expected: int) -> Tensor:
        """The chunk that begins at a row."""
        start, end = (self.tensor.rows_bytes(min(r, self.tensor.rows)) for r in (row, row + chunk_rows(self.tensor)))
        chunk = torch.empty(end - start, dtype=torch.uint8)
        file.seek(start)
        if file.readinto(memoryview(chunk.numpy())) != end - start or crc32(chunk.numpy()) != expected:  # type: ignore[attr-defined]
            raise ValueError(f"is damaged between byte {start} and {end}")
        return chunk


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
