"""transformers with the numbers that come back from being packed: weights, and what a cache keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from flexplan_runtime.kernels.quantisation import pack_vectors, unpack_vectors
from flexplan_runtime.weights import unpack
from flexplan_runtime.weights.checkpoint import open_checkpoint
from flexplan_runtime.weights.packed import pack
from policies import Reference, reference
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from flexplan.model import Packing, read_model, weight_tensors
from flexplan.model.checkpoint import parameter_sources
from flexplan.policy import Policy


class PackedCache(DynamicCache):
    """Keys and values are rounded when they are added; a prompt attends to its exact ones."""

    def __init__(self, packing: Packing | None) -> None:
        super().__init__()
        self.packing = packing

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        if self.packing is None:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        first = self.get_seq_length(layer_idx) == 0
        rounded = [self._rounded(x) for x in (key_states, value_states)]
        stored = super().update(*rounded, layer_idx, *args, **kwargs)
        return (key_states, value_states) if first else stored

    def _rounded(self, x: Any) -> Any:
        assert self.packing is not None
        packed = torch.empty(*x.shape[:-1], self.packing.vector_bytes(x.shape[-1]), dtype=torch.uint8)
        pack_vectors(x, self.packing, packed)
        return unpack_vectors(packed, self.packing, x.shape[-1], x.dtype)


def rounded_model(directory: Path, packing: Packing | None) -> PreTrainedModel:
    """transformers' model with the weights that come back from being packed."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    if packing is None:
        return model
    shape, _ = read_model(str(directory))
    shape = shape.with_dtype(4)
    parameters = dict(model.named_parameters())
    reader, rounded = open_checkpoint(directory, shape), {}
    for tensor in weight_tensors(shape, packing):
        if tensor.packing:
            plain = torch.empty(tensor.rows, tensor.cols)
            reader.read_rows(tensor.name, tensor.layer, 0, tensor.rows, plain)
            data = torch.empty(tensor.nbytes, dtype=torch.uint8)
            pack(plain, tensor, data)
            back = rounded[tensor.layer, tensor.name] = torch.empty_like(plain)
            unpack(data, tensor, back)
            assert not torch.equal(back, plain)
    with torch.no_grad():
        for source in parameter_sources(shape, parameters):
            if (source.layer, source.name) in rounded:
                rows = rounded[source.layer, source.name][source.row : source.row + source.rows]
                theirs = parameters[source.hf_name]
                by_output = theirs.transpose(-2, -1) if source.transposed else theirs
                matrices = by_output if by_output.dim() == 3 else by_output[None]
                matrix, first = divmod(source.hf_row, matrices.shape[1])
                matrices[matrix, first : first + source.rows] = rows
    return model


def packed_reference(directory: Path, prompts: list[list[int]], policy: Policy) -> Reference:
    """What transformers generates with the weights and the cache rounded as a policy says."""
    model = rounded_model(directory, policy.weight_packing(4))
    return reference(model, prompts, cache=PackedCache(policy.cache_packing(4)))
