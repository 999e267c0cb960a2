"""Dummy weights for benchmarks: random, not constant, the same whichever rows are asked for."""

from __future__ import annotations

from zlib import crc32

import torch
from torch import Tensor

from flexplan.shapes import ModelShape
from flexplan.tensors import weight_tensors

_STD = 0.02
_TEMPLATE = 1 << 22
_BLOCK = 1 << 21  # smaller ones take the interpreter longer than the memory


class DummyCheckpoint:
    """Random weights at memory speed: each block of rows is a stretch of one random vector, scaled by a random factor.

    Matrices and biases have a standard deviation of at most 0.02, norms lie around 1, so activations stay finite.
    """

    distinct_rows: int | None = 1024  # quantising all of 175 billion would take minutes
    identity: str | None = None

    def __init__(self, shape: ModelShape, seed: int = 0) -> None:
        self._seed = seed
        self._cols = {(t.layer, t.name): t.cols for t in weight_tensors(shape)}
        generator = torch.Generator().manual_seed(seed)
        longest = max(self._cols.values())
        values = torch.empty(_TEMPLATE + max(_BLOCK, longest)).normal_(generator=generator)
        self._templates = {torch.float32: values}

    def read_rows(self, name: str, layer: int, row_start: int, rows: int, out: Tensor) -> None:
        """Fill `out` with `rows` rows of a canonical tensor, in the dtype of `out`."""
        cols = self._cols[layer, name]
        flat = out.detach().view(-1)
        assert flat.numel() == rows * cols, f"{name}: {flat.numel()} elements for {rows} rows of {cols}"
        block_rows = max(1, _BLOCK // cols)
        row, end = row_start, row_start + rows
        while row < end:
            block, skip = divmod(row, block_rows)
            taken = min(block_rows - skip, end - row)
            part = flat[(row - row_start) * cols : (row - row_start + taken) * cols]
            self._fill(part, f"{self._seed}/{layer}/{name}/{block}", skip * cols, min(_STD, cols**-0.5))
            row += taken
        if name.endswith("norm.weight"):
            flat.add_(1.0)

    def _fill(self, part: Tensor, key: str, skip: int, std: float) -> None:
        """Write the stretch that `key` picks, from its element `skip` on."""
        template = self._template(part.dtype)
        start = crc32(key.encode()) % _TEMPLATE + skip
        # blocks may share a stretch of the template; their factors keep any two rows different
        factor = std * (0.75 + 0.25 * crc32(f"factor {key}".encode()) / 2**32)
        stretch = template[start : start + part.numel()]
        if part.device == stretch.device:
            torch.mul(stretch, factor, out=part)
        else:
            part.copy_(stretch * factor)

    def _template(self, dtype: torch.dtype) -> Tensor:
        if dtype not in self._templates:
            self._templates[dtype] = self._templates[torch.float32].to(dtype)
        return self._templates[dtype]
