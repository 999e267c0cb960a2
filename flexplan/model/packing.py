"""Packing: group-wise quantised numbers, the bytes they take, and where codes, scales and minima lie.

The neighbours of a group share a scale and, where asymmetric, a minimum, both in the model's own dtype:

    asymmetric  x = code * scale + minimum,       scale = (max - min) / (2^bits - 1)
    symmetric   x = (code - 2^(bits-1)) * scale,  scale = max|x| / (2^(bits-1) - 1)

Two layouts.  A *vector* is grouped along itself: its codes, its scales, its minima.  A *slab* is
``group_size`` rows grouped down the columns: a row of scales, a row of minima, then the codes row by row.
Codes of 4 bits: byte ``b`` of a row holds element ``b`` in its low half and element ``b + code_bytes`` in its
high half, so that unpacking never shuffles.
"""

from __future__ import annotations

from dataclasses import dataclass

from flexplan.units import round_up

_VECTOR_ALIGN = 4
_SLAB_ALIGN = 16


@dataclass(frozen=True, slots=True)
class Packing:
    """How numbers are packed; ``element_bytes`` is the width of a scale, ``down`` says in slabs."""

    num_bits: int
    group_size: int
    symmetric: bool
    element_bytes: int
    down: bool = False

    @property
    def params(self) -> int:
        """Numbers that a group shares: its scale, and its minimum where asymmetric."""
        return 1 if self.symmetric else 2

    def code_bytes(self, width: int) -> int:
        """Codes of ``width`` elements of one row."""
        return -(-width * self.num_bits // 8)

    def num_groups(self, size: int) -> int:
        """Groups along ``size`` elements; the last may be short."""
        return -(-size // self.group_size)

    # -- a matrix, in either layout ----------------------------------------------------------------------------------
    @property
    def grain_rows(self) -> int:
        """Rows that stay together."""
        return self.group_size if self.down else 1

    def rows_bytes(self, rows: int, width: int) -> int:
        """``rows`` rows of ``width`` elements, from a grain's beginning on."""
        return self.slabs_bytes(rows, width) if self.down else rows * self.vector_bytes(width)

    # -- vectors: grouped along themselves -------------------------------------------------------------------------
    def scales_at(self, width: int) -> int:
        """Byte of a vector at which its scales begin."""
        return round_up(self.code_bytes(width), self.element_bytes)

    def vector_bytes(self, width: int) -> int:
        """A vector of ``width`` elements.

        >>> Packing(4, 64, False, 2).vector_bytes(128)
        72
        """
        shared = self.params * self.num_groups(width) * self.element_bytes
        return round_up(self.scales_at(width) + shared, _VECTOR_ALIGN)

    # -- slabs: grouped down the columns -----------------------------------------------------------------------------
    def codes_at(self, width: int) -> int:
        """Byte of a slab at which its codes begin."""
        return self.params * width * self.element_bytes

    def slab_bytes(self, width: int) -> int:
        """A whole slab: ``group_size`` rows of ``width`` elements."""
        return round_up(self.codes_at(width) + self.group_size * self.code_bytes(width), _SLAB_ALIGN)

    def slabs_bytes(self, rows: int, width: int) -> int:
        """``rows`` rows from the beginning of a slab on; the last slab may be short.

        >>> Packing(4, 64, False, 2).slabs_bytes(128, 256) / (128 * 256)
        0.5625
        """
        whole, rest = divmod(rows, self.group_size)
        short = round_up(self.codes_at(width) + rest * self.code_bytes(width), _SLAB_ALIGN) if rest else 0
        return whole * self.slab_bytes(width) + short
