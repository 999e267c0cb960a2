"""`Source`: rows of a checkpoint's tensor that are rows of one of ours; families say theirs with what is here."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """Rows of one checkpoint tensor that fill rows of one canonical tensor.

    ``hf_row`` counts in the checkpoint tensor with its leading dimensions flattened (fused experts have three).  Where
    that is ``transposed`` its last two dimensions are (cols, rows), and ``hf_row`` counts as if they were not.
    """

    hf_name: str
    hf_shape: tuple[int, ...]
    hf_row: int
    name: str
    layer: int
    row: int
    rows: int
    cols: int  # elements of one row; a vector has one
    transposed: bool = False


def first_found(candidates: Sequence[str], found: Container[str]) -> str:
    """The candidate that the checkpoint has, else the first."""
    return next((name for name in candidates if name in found), candidates[0])
