"""Which tensors of a checkpoint fill which weights: the names of a family over the tensors of a shape."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence

from flexplan.model.checkpoint.source import Source, first_found
from flexplan.model.families import Names, names_of
from flexplan.model.shape import ModelShape
from flexplan.model.tensors import EMBED, HEAD, TOKENS, WeightTensor, weight_tensors

_EXPERT = re.compile(r"experts\.(\d+)\.(\w+)\.(weight|bias)")


def parameter_sources(shape: ModelShape, found: Container[str]) -> tuple[Source, ...]:
    """Which checkpoint tensors fill which weights of ours, given the names that the checkpoint has."""
    layout = _Layout(shape, names_of(shape.family), found)
    return tuple(source for tensor in weight_tensors(shape) for source in layout.sources(tensor))


class _Layout:
    """The names of a family in one checkpoint."""

    def __init__(self, shape: ModelShape, names: Names, found: Container[str]) -> None:
        self.shape, self.names, self.found = shape, names, found
        tokens = names.outside["tokens"][0]
        self.root = next((r for r in names.roots if f"{r}{tokens}.weight" in found), names.roots[0])

    def sources(self, tensor: WeightTensor) -> Iterator[Source]:
        """Where the rows of a tensor are."""
        stem, _, kind = tensor.name.rpartition(".")
        if tensor.block in (EMBED, HEAD):
            yield self._source(self._outside(tensor.name, stem, kind), tensor, stem)
            return
        at = self.root + self.names.layer.format(tensor.layer)
        if expert := _EXPERT.fullmatch(tensor.name):
            yield from self._of_expert(tensor, at, int(expert[1]), expert[2], expert[3])
        elif stem == "router":
            yield self._source(first_found([f"{at}{name}.{kind}" for name in self.names.router], self.found), tensor)
        else:
            ending, parts = "" if stem in self.names.bare else kind, self.names.inside[stem]
            if f"{at}{self.names.otherwise.get(stem)}.{kind}" in self.found:
                parts = (self.names.otherwise[stem],)
            yield from self._stacked([f"{at}{part}" for part in parts], ending, tensor, stem)

    def _outside(self, name: str, stem: str, kind: str) -> str:
        """The name of the token table, a head, or what else is there once."""
        candidates = [f"{self.root}{part}.{kind}" for part in self.names.outside.get(stem, ())]
        heads = [f"{part}.{kind}" for part in self.names.outside["lm_head"]]  # beside the trunk, not inside
        if stem == "lm_head":
            candidates = heads
        elif name == TOKENS and self.shape.tied_embeddings:  # transformers ties from whichever of the two is stored
            candidates += heads
        return first_found(candidates, self.found)

    def _stacked(self, parts: Sequence[str], kind: str, tensor: WeightTensor, stem: str) -> Iterator[Source]:
        """The parts of a tensor, one under the other: queries, keys and values, gate and up, or all in one."""
        if stem == "qkv" and self.names.by_head:
            yield from self._by_head(f"{parts[0]}.{kind}", tensor)
            return
        s, row = self.shape, 0
        split = [s.q_size, s.kv_size, s.kv_size] if stem == "qkv" else [tensor.rows // len(parts)] * len(parts)
        for part, rows in zip(parts, split if len(parts) > 1 else [tensor.rows], strict=True):
            yield self._source(f"{part}{'.' * bool(kind)}{kind}", tensor, stem, row, rows)
            row += rows

    def _by_head(self, name: str, tensor: WeightTensor) -> Iterator[Source]:
        """Of each KV head its queries, its key, its value, one head after the other; ours are all queries first."""
        s, at = self.shape, 0
        shape = (tensor.rows,) if tensor.cols == 1 else (tensor.rows, tensor.cols)
        group, one = s.group_size * s.head_dim, s.head_dim
        for head in range(s.num_kv_heads):
            key = s.q_size + head * one
            for row, rows in ((head * group, group), (key, one), (key + s.kv_size, one)):
                yield Source(name, shape, at, tensor.name, tensor.layer, row, rows, tensor.cols)
                at += rows

    def _of_expert(self, tensor: WeightTensor, at: str, expert: int, stem: str, kind: str) -> Iterator[Source]:
        """One of an expert's, from a tensor of its own or from that of all experts."""
        fused = [f"{at}{name}{'' if kind == 'weight' else '_bias'}" for name in self.names.fused.get(stem, ())]
        name = next((n for n in fused if n in self.found), None)
        if name is None and fused and not self.names.experts:
            name = fused[0]
        if name is not None:
            yield self._fused(name, tensor, expert, stem)
            return
        alternatives = [[f"{at}{part.format(e=expert)}" for part in each[stem]] for each in self.names.experts]
        parts = next((each for each in alternatives if f"{each[0]}.{kind}" in self.found), alternatives[0])
        yield from self._stacked(parts, kind, tensor, stem)

    def _fused(self, name: str, tensor: WeightTensor, expert: int, stem: str) -> Source:
        """One expert's part of a tensor of all of them; quantised ones always lie by output."""
        count, rows, cols = self.shape.num_experts, tensor.rows, tensor.cols
        transposed = stem in self.names.transposed and cols > 1 and f"{name}_blocks" not in self.found
        shape = (count, rows) if cols == 1 else (count, cols, rows) if transposed else (count, rows, cols)
        return Source(name, shape, expert * rows, tensor.name, tensor.layer, 0, rows, cols, transposed)

    def _source(self, name: str, tensor: WeightTensor, stem: str = "", row: int = 0, rows: int = 0) -> Source:
        rows, cols = rows or tensor.rows, tensor.cols
        transposed = stem in self.names.transposed and cols > 1
        shape = (rows,) if cols == 1 else (cols, rows) if transposed else (rows, cols)
        return Source(name, shape, 0, tensor.name, tensor.layer, row, rows, cols, transposed)
