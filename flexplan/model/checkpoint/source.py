"""`Source`: rows of a checkpoint's tensor that are rows of one of ours; families say theirs with what is here."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import chain


@dataclass(frozen=True, slots=True)
class Source:
    """Rows of one checkpoint tensor that fill rows of one canonical tensor.

    ``hf_row`` counts in the checkpoint tensor with its leading dimensions flattened (fused experts have three).
    """

    hf_name: str
    hf_shape: tuple[int, ...]
    hf_row: int
    name: str
    layer: int
    row: int
    rows: int

    @property
    def cols(self) -> int:
        """Elements of one row; a vector has one."""
        return self.hf_shape[-1] if len(self.hf_shape) > 1 else 1


def first_found(candidates: Sequence[str], found: Container[str]) -> str:
    """The candidate that the checkpoint has, else the first."""
    return next((name for name in candidates if name in found), candidates[0])


def stacked(hf_names: Sequence[str], rows: Sequence[int], cols: int | None, name: str, layer: int) -> list[Source]:
    """Checkpoint tensors that lie one under the other in a canonical one; vectors have no `cols`."""
    starts = [sum(rows[:n]) for n in range(len(rows))]
    shapes = [(r,) if cols is None else (r, cols) for r in rows]
    return [
        Source(hf, shape, 0, name, layer, start, r)
        for hf, shape, start, r in zip(hf_names, shapes, starts, rows, strict=True)
    ]


def joined(hf_stems: Sequence[str], rows: Sequence[int], cols: int, bias: bool, stem: str, layer: int) -> list[Source]:
    """`stacked` weights and, if there are any, their biases."""
    kinds: list[tuple[str, int | None]] = [("weight", cols), ("bias", None)]
    return list(
        chain.from_iterable(
            stacked([f"{hf}.{kind}" for hf in hf_stems], rows, width, f"{stem}.{kind}", layer)
            for kind, width in (kinds if bias else kinds[:1])
        )
    )
