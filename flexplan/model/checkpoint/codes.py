"""Which tensors of a quantised checkpoint hold the codes, scales and zeros of a matrix, and of which shapes.

Of a matrix of R rows (outputs) and C columns, G groups to a row, P whole numbers to 32 bits:

    fp8      X.weight (R, C) F8_E4M3, X.weight_scale_inv or X.weight_scale: one, a row's, or a block's
    mxfp4    X_blocks (..., R, C / 32, 16) and X_scales (..., R, C / 32), bytes
    gptq     X.qweight (C / P, R), X.qzeros (G, R / P), 32 bits; X.scales (G, R); X.g_idx (C)
    awq      X.qweight (C, R / P), X.qzeros (G, R / P), 32 bits; X.scales (G, R)
    packed   X.weight_packed (R, C / P), X.weight_zero_point (R / P, G), 32 bits; X.weight_scale (R, G)
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from flexplan.model.checkpoint.files import StoredTensor
from flexplan.model.checkpoint.source import Source, first_found
from flexplan.model.coding import StoredFormat

Shape = tuple[int, ...]

_SCALE_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "e8m0": "F8_E8M0"}
_LOGICAL = ((".qweight", ".weight"), (".weight_packed", ".weight"), ("_blocks", ""))


@dataclass(frozen=True, slots=True)
class StoredCodes:
    """The tensors that a matrix is stored in; `order` says which group each column is of, which must be its place's."""

    stored: StoredFormat
    codes: StoredTensor
    scales: StoredTensor
    zeros: StoredTensor | None = None
    order: StoredTensor | None = None

    @property
    def tensors(self) -> tuple[StoredTensor, ...]:
        """All of them."""
        return tuple(t for t in (self.codes, self.scales, self.zeros, self.order) if t is not None)


class Companion(NamedTuple):
    """One of the tensors that a matrix is stored in: its part, its name, the shapes and dtypes that it may have."""

    part: str
    name: str
    shapes: tuple[Shape, ...]
    dtypes: tuple[str, ...]


def plain_name(name: str) -> str:
    """The name of the matrix whose codes a tensor holds; any other tensor is called as it is.

    >>> plain_name("layers.0.mlp.down_proj.qweight"), plain_name("norm.weight")
    ('layers.0.mlp.down_proj.weight', 'norm.weight')
    """
    return next((name.removesuffix(end) + plain for end, plain in _LOGICAL if name.endswith(end)), name)


def companions(source: Source, stored: StoredFormat, found: Container[str]) -> Iterator[Companion]:
    """The tensors that the matrix of a source is stored in; of names that are used in turn, those that are found."""
    yield from _LAYOUTS[stored.layout](source, stored, found)


def _fp8(source: Source, stored: StoredFormat, found: Container[str]) -> Iterator[Companion]:
    rows, cols = source.hf_shape[-2:]
    grid = (-(-rows // stored.scale_rows) if stored.scale_rows else 1, stored.coding.num_groups(cols))
    shapes: tuple[Shape, ...] = (grid,) if grid[1] > 1 else (grid, grid[:1])
    yield Companion("codes", source.hf_name, (source.hf_shape,), ("F8_E4M3",))
    names = [f"{source.hf_name}_scale_inv", f"{source.hf_name}_scale"]
    yield Companion("scales", first_found(names, found), (*shapes, ()) if grid == (1, 1) else shapes, _scales(stored))


def _mxfp4(source: Source, stored: StoredFormat, _found: Container[str]) -> Iterator[Companion]:
    groups = (*source.hf_shape[:-1], stored.coding.num_groups(source.cols))
    yield Companion("codes", f"{source.hf_name}_blocks", ((*groups, stored.coding.group_size // 2),), ("U8",))
    yield Companion("scales", f"{source.hf_name}_scales", (groups,), ("U8",))


def _gptq(source: Source, stored: StoredFormat, found: Container[str]) -> Iterator[Companion]:
    (rows, cols), stem, many = (
        source.hf_shape[-2:],
        source.hf_name.removesuffix(".weight"),
        32 // stored.coding.num_bits,
    )
    groups = stored.coding.num_groups(cols)
    yield Companion("codes", f"{stem}.qweight", ((-(-cols // many), rows),), ("I32",))
    yield Companion("scales", f"{stem}.scales", ((groups, rows),), _scales(stored))
    yield Companion("zeros", f"{stem}.qzeros", ((groups, -(-rows // many)),), ("I32",))
    if f"{stem}.g_idx" in found:
        yield Companion("order", f"{stem}.g_idx", ((cols,),), ("I32",))


def _awq(source: Source, stored: StoredFormat, _found: Container[str]) -> Iterator[Companion]:
    (rows, cols), stem, many = (
        source.hf_shape[-2:],
        source.hf_name.removesuffix(".weight"),
        32 // stored.coding.num_bits,
    )
    groups = stored.coding.num_groups(cols)
    yield Companion("codes", f"{stem}.qweight", ((cols, -(-rows // many)),), ("I32",))
    yield Companion("scales", f"{stem}.scales", ((groups, rows),), _scales(stored))
    yield Companion("zeros", f"{stem}.qzeros", ((groups, -(-rows // many)),), ("I32",))


def _packed(source: Source, stored: StoredFormat, _found: Container[str]) -> Iterator[Companion]:
    (rows, cols), many = source.hf_shape[-2:], 32 // stored.coding.num_bits
    groups = stored.coding.num_groups(cols)
    yield Companion("codes", f"{source.hf_name}_packed", ((rows, -(-cols // many)),), ("I32",))
    yield Companion("scales", f"{source.hf_name}_scale", ((rows, groups),), _scales(stored))
    if stored.coding.zeros:
        yield Companion("zeros", f"{source.hf_name}_zero_point", ((-(-rows // many), groups),), ("I32",))


def _scales(stored: StoredFormat) -> tuple[str, ...]:
    return (_SCALE_NAMES[stored.coding.scale],)


_LAYOUTS: dict[str, Callable[[Source, StoredFormat, Container[str]], Iterator[Companion]]] = {
    "fp8": _fp8,
    "mxfp4": _mxfp4,
    "gptq": _gptq,
    "gptq_v2": _gptq,
    "awq": _awq,
    "packed": _packed,
}
