"""Coding: a matrix in the codes that its checkpoint stores, row by row: codes, scales, zeros.

    x = value(code) * scale           codes that are small floats: e4m3 (8 bits), e2m1 (4 bits)
    x = (code - zero) * scale         whole numbers of 4 or 8 bits; without zeros of its own, the middle code is zero

The columns of a group share a scale and a zero.  Codes of 4 bits lie two in a byte, the earlier one low: what gpt-oss,
GPTQ and compressed-tensors store, so that rows are copied as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from flexplan.limits import PlainText
from flexplan.units import round_up

Code = Literal["e4m3", "e2m1", "uint4", "uint8"]
Scale = Literal["float32", "float16", "bfloat16", "e8m0"]
StoredLayout = Literal["fp8", "mxfp4", "gptq", "gptq_v2", "awq", "packed"]

_BITS = {"e4m3": 8, "e2m1": 4, "uint4": 4, "uint8": 8}
_SCALE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "e8m0": 1}
_SCALES_ALIGN = 4
_ROW_ALIGN = 16  # a thread of the gpu reads as many bytes at once


@dataclass(frozen=True, slots=True)
class Coding:
    """What codes and scales are; ``group_size`` counts columns, 0 says that a whole row shares its scale."""

    code: Code
    scale: Scale
    group_size: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    zeros: bool = False

    @property
    def num_bits(self) -> int:
        """Bits of a code."""
        return _BITS[self.code]

    @property
    def middle(self) -> int:
        """The zero of whole numbers that have none stored."""
        return 0 if self.code.startswith("e") else 1 << (self.num_bits - 1)

    @property
    def scale_bytes(self) -> int:
        """Bytes of a scale."""
        return _SCALE_BYTES[self.scale]

    @property
    def grain_rows(self) -> int:
        """Rows that stay together: each is complete by itself."""
        return 1

    def num_groups(self, width: int) -> int:
        """Groups of a row; the last may be short."""
        return -(-width // self.group_size) if self.group_size else 1

    def code_bytes(self, width: int) -> int:
        """Codes of a row of ``width`` elements."""
        return -(-width * self.num_bits // 8)

    def scales_at(self, width: int) -> int:
        """Byte of a row at which its scales begin."""
        return round_up(self.code_bytes(width), _SCALES_ALIGN)

    def zeros_at(self, width: int) -> int:
        """Byte of a row at which its zeros begin, a byte each."""
        return self.scales_at(width) + self.num_groups(width) * self.scale_bytes

    def row_bytes(self, width: int) -> int:
        """A row of ``width`` elements.

        >>> Coding("e2m1", "e8m0", 32).row_bytes(2880), Coding("e4m3", "float32", 128).row_bytes(4096)
        (1536, 4224)
        """
        return round_up(self.zeros_at(width) + self.zeros * self.num_groups(width), _ROW_ALIGN)

    def rows_bytes(self, rows: int, width: int) -> int:
        """``rows`` rows of ``width`` elements."""
        return rows * self.row_bytes(width)


class StoredFormat(BaseModel):
    """How a checkpoint stores the matrices of its layers, where not in floats of 16 bits and more.

    ``layout`` says which tensors hold codes and scales; ``scale_rows`` how many rows share a scale in them.
    ``kept`` are the matrices that stay plain floats: ``down.weight`` of all layers, ``0.down.weight`` of one, an
    expert's number being ``*``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: PlainText
    layout: StoredLayout
    coding: Coding
    scale_rows: Annotated[int, Field(ge=0, le=1 << 20)] = 1
    kept: tuple[PlainText, ...] = ()

    def coding_of(self, layer: int, name: str) -> Coding | None:
        """How a matrix of a layer is stored, None where it is plain."""
        if self.layout == "mxfp4" and not name.startswith("experts."):
            return None
        known = every_expert(name)
        return None if known in self.kept or f"{layer}.{known}" in self.kept else self.coding


def every_expert(name: str) -> str:
    """The name of a matrix for all experts.

    >>> every_expert("experts.12.down.weight"), every_expert("out.weight")
    ('experts.*.down.weight', 'out.weight')
    """
    if not name.startswith("experts."):
        return name
    _, number, rest = name.split(".", 2)
    return f"experts.*.{rest}" if number.isdigit() else name
