"""A checkpoint on disk: checked whole before any weight is read, then read row by row into the caller's memory."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from flexplan.model import ModelShape, WeightTensor
from flexplan.model.checkpoint import Parts, Source, StoredCodes, StoredTensor, find_weights
from flexplan_runtime.kernels.codes import decode_rows
from flexplan_runtime.weights.codes import read_coded
from flexplan_runtime.weights.files import CHUNK_BYTES, bytes_of, read_into, read_npy


class WeightReader(Protocol):
    """Where weights come from.

    ``distinct_rows``: None, or how many rows of a tensor are enough to be quantised, the others being like them.
    ``identity``: a name that other weights do not have, for what is kept on disk; None where nothing is to be kept.
    """

    distinct_rows: int | None
    identity: str | None

    def read_rows(self, name: str, layer: int, row_start: int, rows: int, out: Tensor) -> None:
        """Fill `out` with `rows` rows of a canonical tensor, in the dtype of `out`.

        `out` is contiguous, holds rows x cols elements in any shape, on any device.  May be called by several
        threads at once.
        """

    def read_codes(self, tensor: WeightTensor, row_start: int, rows: int, out: Tensor) -> None:
        """Fill the bytes of `out` with `rows` rows of a tensor as its coding lays them out."""


class Checkpoint:
    """A checkpoint whose files were found complete by `open_checkpoint`; reads at most 64 MiB beside `out`."""

    distinct_rows: int | None = None

    def __init__(self, path: Path, parts: Parts) -> None:
        self.path = path
        self._parts = parts
        self.identity: str | None = f"{path.resolve().name}-{_digest(parts)}"

    def read_rows(self, name: str, layer: int, row_start: int, rows: int, out: Tensor) -> None:
        """Fill `out` with `rows` rows of a canonical tensor, in the dtype of `out`; StorageError if a file changed."""
        parts = self._parts[layer, name]
        cols = parts[0][0].cols
        flat = out.detach().view(-1)
        assert flat.numel() == rows * cols, f"{name}: {flat.numel()} elements for {rows} rows of {cols}"
        for source, stored in parts:
            first, last = max(row_start, source.row), min(row_start + rows, source.row + source.rows)
            if first < last:
                at = source.hf_row + first - source.row
                part = flat[(first - row_start) * cols : (last - row_start) * cols]
                if isinstance(stored, StoredCodes):
                    _decode(stored, source, at, part.view(last - first, cols))
                elif source.transposed:
                    _read_transposed(stored, source, at, part.view(last - first, cols))
                else:
                    _read(stored, at * cols, part)

    def read_codes(self, tensor: WeightTensor, row_start: int, rows: int, out: Tensor) -> None:
        """Fill the bytes of `out` with `rows` rows of a tensor as its coding lays them out; errors as `read_rows`."""
        vectors = out.view(rows, -1)
        for source, stored in self._parts[tensor.layer, tensor.name]:
            first, last = max(row_start, source.row), min(row_start + rows, source.row + source.rows)
            if first < last:
                assert isinstance(stored, StoredCodes), f"{tensor.name} is stored in codes"
                at = source.hf_row + first - source.row
                read_coded(stored, source, at, vectors[first - row_start : last - row_start])


def _digest(parts: Parts) -> str:
    """Changes with the name, size and time of any file, and with where in it a tensor is."""
    digest = hashlib.sha256()
    for name, sources in sorted(parts.items()):
        for source, stored in ((s, t) for s, found in sources for t in _tensors(found)):
            file = (stored.file.path.name, stored.file.size, stored.file.identity[-1])
            digest.update(repr((name, source, file, stored.offset, stored.shape, stored.dtype_name)).encode())
    return digest.hexdigest()[:16]


def _tensors(found: StoredTensor | StoredCodes) -> tuple[StoredTensor, ...]:
    return found.tensors if isinstance(found, StoredCodes) else (found,)


def _decode(stored: StoredCodes, source: Source, row: int, out: Tensor) -> None:
    """Fill the matrix `out` from row `row` of a source on, whose numbers are stored in codes."""
    coding = stored.stored.coding
    step = max(1, CHUNK_BYTES // coding.row_bytes(source.cols))
    for part in out.split(step):
        vectors = torch.empty(len(part), coding.row_bytes(source.cols), dtype=torch.uint8)
        read_coded(stored, source, row, vectors)
        numbers = torch.empty(part.shape, dtype=part.dtype)
        decode_rows(vectors, coding, numbers)
        part.copy_(numbers)
        row += len(part)


def _read(stored: StoredTensor, element: int, out: Tensor) -> None:
    """Fill the vector `out` from `element` on: straight if nothing needs converting, else by chunks."""
    assert stored.dtype is not None
    dtype: torch.dtype = getattr(torch, stored.dtype)
    offset = stored.offset + element * dtype.itemsize
    if out.device.type == "cpu" and out.dtype == dtype:
        read_into(stored.file, offset, bytes_of(out))
        return
    chunk = torch.empty(min(out.numel(), CHUNK_BYTES // dtype.itemsize), dtype=dtype)
    for part in torch.split(out, chunk.numel()):
        read_into(stored.file, offset, bytes_of(chunk[: part.numel()]))
        part.copy_(chunk[: part.numel()])
        offset += part.numel() * dtype.itemsize


def _read_transposed(stored: StoredTensor, source: Source, row: int, out: Tensor) -> None:
    """Fill the matrix `out` from `row` on with columns of one that lies by input, some of its rows at a time."""
    cols, rows = source.hf_shape[-2:]
    matrix, first = divmod(row, rows)
    step = max(1, CHUNK_BYTES // (rows * out.element_size()))
    for col in range(0, cols, step):
        lines = torch.empty(min(step, cols - col), rows, dtype=out.dtype)
        _read(stored, (matrix * cols + col) * rows, lines.view(-1))
        out[:, col : col + len(lines)] = lines[:, first : first + len(out)].t()


def open_checkpoint(path: Path, shape: ModelShape) -> Checkpoint:
    """The weights of a model directory: safetensors, single or sharded, or one .npy file a tensor.

    Everything that is wrong with the files is listed in one ModelFilesError, before any weight is read.
    """
    directory = path.expanduser()
    return Checkpoint(directory, find_weights(directory, shape, read_npy))
