"""Dummy weights for benchmarks: random, not constant, the same whichever rows are asked for."""

from __future__ import annotations

import threading
from zlib import crc32

import torch
from torch import Tensor

from flexplan.model import Coding, ModelShape, WeightTensor, weight_tensors
from flexplan_runtime.kernels.codes import scale_bytes

_STD = 0.02
_SPAN = 1 << 21
_SPREADS = {"e2m1": 2.93, "uint4": 4.61, "uint8": 73.9}  # standard deviations of codes of which all are as likely
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
        self._codes: dict[str, tuple[Tensor, float]] = {}
        self._scaling = threading.Lock()

    def read_rows(self, name: str, layer: int, row_start: int, rows: int, out: Tensor) -> None:
        """Fill `out` with `rows` rows of a canonical tensor, in the dtype of `out`."""
        cols = self._cols[layer, name]
        flat = out.detach().view(-1)
        assert flat.numel() == rows * cols, f"{name}: {flat.numel()} elements for {rows} rows of {cols}"
        vector = self._vector(out.dtype, min(_STD, cols**-0.5))
        self._spread(vector, cols, name, layer, row_start, flat.view(rows, cols))
        if name.endswith("norm.weight"):
            flat.add_(1.0)

    def read_codes(self, tensor: WeightTensor, row_start: int, rows: int, out: Tensor) -> None:
        """Fill the bytes of `out` with `rows` rows of random codes, whose numbers spread as those of other matrices.

        Scales, and zeros, are the same everywhere: what codes mean costs the same whatever they are.
        """
        coding, width = tensor.packing, tensor.cols
        assert isinstance(coding, Coding)
        vectors, size = out.view(rows, -1), coding.code_bytes(width)
        codes, spread = self._codes_of(coding)
        self._spread(codes, size, tensor.name, tensor.layer, row_start, vectors[:, :size])
        vectors[:, size:] = 0
        scale = scale_bytes(min(_STD, width**-0.5) / spread, coding)
        vectors[:, coding.scales_at(width) : coding.zeros_at(width)] = scale.repeat(coding.num_groups(width))
        if coding.zeros:
            zeros_at = coding.zeros_at(width)
            vectors[:, zeros_at : zeros_at + coding.num_groups(width)] = 1 << (coding.num_bits - 1)

    def _spread(self, vector: Tensor, cols: int, name: str, layer: int, row_start: int, matrix: Tensor) -> None:
        """Each row of `matrix` a stretch of the vector, a stride further than the last one."""
        at = crc32(f"{self._seed}/{layer}/{name}".encode()) + row_start * _STRIDE
        while len(matrix):
            start = at % _SPAN
            taken = min(len(matrix), -(-(_SPAN - start) // _STRIDE))
            matrix[:taken].copy_(vector.as_strided((taken, cols), (_STRIDE, 1), start))
            matrix, at = matrix[taken:], at + taken * _STRIDE

    def _codes_of(self, coding: Coding) -> tuple[Tensor, float]:
        """Random codes, none of which is no number, and the standard deviation of what they stand for."""
        with self._scaling:
            if coding.code not in self._codes:
                if coding.code == "e4m3":
                    self._codes[coding.code] = self._normal.to(torch.float8_e4m3fn).view(torch.uint8), 1.0
                else:
                    generator = torch.Generator().manual_seed(self._seed)
                    any_byte = torch.randint(256, self._normal.shape, dtype=torch.uint8, generator=generator)
                    self._codes[coding.code] = any_byte, _SPREADS[coding.code]
            return self._codes[coding.code]

    def _vector(self, dtype: torch.dtype, std: float) -> Tensor:
        """The random vector with a standard deviation of ``std``."""
        with self._scaling:  # whoever comes second would make it again
            if (dtype, std) not in self._vectors:
                self._vectors[dtype, std] = (self._normal * std).to(dtype)
            return self._vectors[dtype, std]
