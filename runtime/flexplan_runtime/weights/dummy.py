"""Dummy weights for benchmarks: random, not constant, the same whichever rows are asked for."""

from __future__ import annotations

import threading
from zlib import crc32

import torch
from torch import Tensor

from flexplan.model import ModelShape, weight_tensors

_STD = 0.02
_SPAN = 1 << 21
_STRIDE = 587  # odd, so that no two of the first 2^21 rows are alike; short, so that a row's source is in the cache


class DummyCheckpoint:
    """Random weights at memory speed: each row is a stretch of one random vector, a stride further than the last one.

    Matrices and biases have a standard deviation of at most 0.02, norms lie around 1, so activations stay finite.
    """

    distinct_rows: int | None = 1024  # quantising all of 175 billion would take minutes
    identity: str | None = None

    def __init__(self, shape: ModelShape, seed: int = 0) -> None:
        self._seed = seed
        self._cols = {(t.layer, t.name): t.cols for t in weight_tensors(shape)}
        generator = torch.Generator().manual_seed(seed)
        self._normal = torch.empty(_SPAN + max(self._cols.values())).normal_(generator=generator)
        self._vectors: dict[tuple[torch.dtype, float], Tensor] = {}
        self._scaling = threading.Lock()

    def read_rows(self, name: str, layer: int, row_start: int, rows: int, out: Tensor) -> None:
        """Fill `out` with `rows` rows of a canonical tensor, in the dtype of `out`."""
        cols = self._cols[layer, name]
        flat = out.detach().view(-1)
        assert flat.numel() == rows * cols, f"{name}: {flat.numel()} elements for {rows} rows of {cols}"
        vector = self._vector(out.dtype, min(_STD, cols**-0.5))
        matrix, at = flat.view(rows, cols), crc32(f"{self._seed}/{layer}/{name}".encode()) + row_start * _STRIDE
        while len(matrix):
            start = at % _SPAN
            taken = min(len(matrix), -(-(_SPAN - start) // _STRIDE))
            matrix[:taken].copy_(vector.as_strided((taken, cols), (_STRIDE, 1), start))
            matrix, at = matrix[taken:], at + taken * _STRIDE
        if name.endswith("norm.weight"):
            flat.add_(1.0)

    def _vector(self, dtype: torch.dtype, std: float) -> Tensor:
        """The random vector with a standard deviation of ``std``."""
        with self._scaling:  # whoever comes second would make it again
            if (dtype, std) not in self._vectors:
                self._vectors[dtype, std] = (self._normal * std).to(dtype)
            return self._vectors[dtype, std]
