"""The layers of the schedule: embedding, N transformer layers (or N x (attention, MLP)), head."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from flexplan.model.packing import Packing
from flexplan.model.shape import ModelShape
from flexplan.model.tensors import ATTENTION, EMBED, HEAD, MLP, TOKENS, WeightTensor, weight_tensors

TRANSFORMER = "transformer"


@dataclass(frozen=True, slots=True)
class Layer:
    """Layer ``j`` of the schedule; ``depth`` is the transformer layer it belongs to (-1 embedding, N head)."""

    j: int
    role: str
    depth: int

    @property
    def attends(self) -> bool:
        return self.role in (ATTENTION, TRANSFORMER)


def separates(shape: ModelShape, sep_layer: bool | None) -> bool:
    """What ``sep_layer`` of a policy comes to: None is True unless both blocks are given the same."""
    return not shape.parallel if sep_layer is None else sep_layer


@cache
def schedule_layers(shape: ModelShape, sep_layer: bool | None) -> tuple[Layer, ...]:
    """N + 2 layers, or 2N + 2 where attention and MLP are separate."""
    roles, two = [(EMBED, -1)], separates(shape, sep_layer)
    for depth in range(shape.num_layers):
        roles += [(ATTENTION, depth), (MLP, depth)] if two else [(TRANSFORMER, depth)]
    roles.append((HEAD, shape.num_layers))
    return tuple(Layer(j, role, depth) for j, (role, depth) in enumerate(roles))


def is_gathered(tensor: WeightTensor) -> bool:
    """True for a token table of its own: its rows are gathered where they live, it is never streamed."""
    return tensor.name == TOKENS and tensor.block == EMBED


def layer_tensors(shape: ModelShape, layer: Layer, packing: Packing | None = None) -> tuple[WeightTensor, ...]:
    """The tensors that layer ``layer`` computes with, in order; a gathered table is not among them."""
    blocks = (ATTENTION, MLP) if layer.role == TRANSFORMER else (layer.role,)
    found = _by_layer(shape, packing)
    return tuple(t for block in blocks for t in found.get((layer.depth, block), ()))


@cache
def _by_layer(shape: ModelShape, packing: Packing | None) -> dict[tuple[int, str], list[WeightTensor]]:
    """The streamed tensors by layer and block."""
    found: dict[tuple[int, str], list[WeightTensor]] = {}
    for tensor in weight_tensors(shape, packing):
        if not is_gathered(tensor):
            found.setdefault((tensor.layer, tensor.block), []).append(tensor)
    return found
