"""Dummy weights for benchmarks: random, not constant, the same whichever rows are asked for."""

from __future__ import annotations

import random
import threading
from statistics import NormalDist
from zlib import crc32

import torch
from torch import Tensor

from flexplan.model import Coding, ModelShape, WeightTensor, weight_tensors
from flexplan.model.tensors import ROUTER
from flexplan_runtime.kernels.codes import scale_bytes

_STD = 0.02
_SPAN = 1 << 21
_SPREADS = {"e2m1": 2.93, "uint4": 4.61, "uint8": 73.9}  # standard deviations of codes of which all are as likely
_MOST_WANTED = 0.45  # of all tokens: however large its row, an expert's score is as often low as high
_STRIDE = 587  # odd, so that no two of the first 2^21 rows are alike; short, so that a row's source is in the cache


class DummyCheckpoint:
    """Random weights at memory speed: each row is a stretch of one random vector, a stride further than the last one.

    Matrices and biases have a standard deviation of at most 0.02, norms lie around 1, so activations stay finite.
    ``skewed``: of each mixture's experts, in an order of its own, the n-th most wanted is as likely as 1/n.
    """

    distinct_rows: int | None = 1024  # quantising all of 175 billion would take minutes
    identity: str | None = None

    def __init__(self, shape: ModelShape, seed: int = 0, *, skewed: bool = False) -> None:
        self._seed = seed
        self._wanted = wanted(shape.num_experts, shape.experts_per_token) if skewed and shape.num_experts else []
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
        if name == ROUTER and self._wanted:
            scales = random.Random(self._seed << 32 | layer).sample(self._wanted, len(self._wanted))
            flat.view(rows, cols).mul_(torch.tensor(scales[row_start : row_start + rows]).to(out)[:, None])

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


def wanted(experts: int, each: int) -> list[float]:
    """Scales of a router's rows by which the n-th expert is among the ``each`` best of a token as often as c / n.

    Scores are taken to be normal, so that one above a threshold t as often as p is t / quantile(1 - p) wide.  No share
    is above 45 %.

    >>> [round(scale, 2) for scale in wanted(8, 2)]
    [2.78, 2.78, 0.67, 0.46, 0.38, 0.34, 0.31, 0.29]
    """
    low, high = 0.0, float(experts * each)
    for _ in range(60):
        c = (low + high) / 2
        shares = [min(_MOST_WANTED, c / (n + 1)) for n in range(experts)]
        low, high = (c, high) if sum(shares) < each else (low, c)
    widths = [1 / NormalDist().inv_cdf(1 - share) for share in shares]
    return [width * experts / sum(widths) for width in widths]
