"""4 and 8 bits: whatever the placement, the tokens are those of transformers with the same quantised numbers."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from flexplan_runtime.kernels.quantisation import pack_vectors, unpack_vectors
from flexplan_runtime.weights import unpack
from flexplan_runtime.weights.checkpoint import open_checkpoint
from flexplan_runtime.weights.packed import pack
from policies import (
    NEAR_TIE,
    Case,
    Reference,
    covering,
    generated,
    opened,
    random_prompts,
    reference,
    text_prompts,
)
from tiny_models import CONFIGS, saved
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from flexplan.model import Packing, parameter_sources, read_model, weight_tensors
from flexplan.policy import CompressionConfig, Policy
from flexplan.testing import policy_with

DOWN, ALONG = 0, 1
WEIGHTS = (
    CompressionConfig(4, 64, DOWN),
    CompressionConfig(8, 16, DOWN),
    CompressionConfig(4, 16, ALONG),
    CompressionConfig(4, 8, DOWN, symmetric=True),
    CompressionConfig(8, 32, ALONG, symmetric=True),
)
CACHES = (
    CompressionConfig(4, 64, 2),
    CompressionConfig(8, 8, 2),
    CompressionConfig(4, 4, 2),
    CompressionConfig(8, 64, 2, symmetric=True),
)
DOCUMENTED = policy_with(
    2,
    4,
    w=(0.0, 50.0),
    cache=(0.0, 50.0),
    act=(0.0, 100.0),
    overlap=True,
    sep_layer=True,
    pin_weight=True,
    compress_weight=True,
    comp_weight_config=CompressionConfig(4, 64, 0, symmetric=False),
    compress_cache=True,
    comp_cache_config=CompressionConfig(4, 64, 2, symmetric=False),
)


# -- transformers with quantised numbers ---------------------------------------------------------------------------
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
                flat = parameters[source.hf_name].flatten(0, -2)
                flat[source.hf_row : source.hf_row + source.rows] = rows
    return model


def packed_reference(directory: Path, prompts: list[list[int]], policy: Policy) -> Reference:
    """What transformers generates with the weights and the cache rounded as a policy says."""
    model = rounded_model(directory, policy.weight_packing(4))
    return reference(model, prompts, cache=PackedCache(policy.cache_packing(4)))


# -- the selection ---------------------------------------------------------------------------------------------------
def packed_cases(count: int, seed: int = 0) -> list[tuple[Policy, list[Case]]]:
    """Cases by what is packed and how: weights, cache, both in turn."""
    kinds: list[Policy] = []
    for n, (weights, cache) in enumerate(zip(cycle(WEIGHTS), cycle(CACHES), strict=False)):
        if n == len(WEIGHTS) * len(CACHES):
            break
        what = n % 3
        kinds.append(
            Policy(
                compress_weight=what != 1,
                comp_weight_config=weights,
                compress_cache=what != 0,
                comp_cache_config=cache,
            )
        )
    groups: list[tuple[Policy, list[Case]]] = [(kind, []) for kind in kinds]
    for case, (kind, cases) in zip(covering(count, seed=seed), cycle(groups), strict=False):
        fields = ("compress_weight", "comp_weight_config", "compress_cache", "comp_cache_config")
        policy = replace(case.policy, **{name: getattr(kind, name) for name in fields})
        cases.append(replace(case, policy=policy))
    return [group for group in groups if group[1]]


def refuted(directory: Path, prompts: list[list[int]], groups: list[tuple[Policy, list[Case]]], tmp_path: Path) -> Any:
    """(rows in all, rows that differ at a near tie); anything else that differs fails."""
    rows = ties = 0
    for kind, cases in groups:
        expected = packed_reference(directory, prompts, kind)
        for case in cases:
            output = generated(directory, case, prompts, tmp_path)
            differing = expected.rows_that_differ(case, output)
            assert all(gap < NEAR_TIE for _, gap in differing), f"{case}: {kind}: {differing}"
            rows, ties = rows + case.num_prompts, ties + len(differing)
    return rows, ties


# -- right -------------------------------------------------------------------------------------------------------------
def test_tokens_of_the_trained_model(tiny_opt: Path, tmp_path: Path) -> None:
    rows, ties = refuted(tiny_opt, text_prompts(tiny_opt), packed_cases(60), tmp_path)
    assert ties <= rows / 100


@pytest.mark.parametrize("family", ["llama", "qwen3", "opt post-norm, projected", "mixtral"])
def test_tokens_of_a_random_model(family: str, tmp_path: Path) -> None:
    saved(CONFIGS[family], tmp_path / "model")
    prompts = random_prompts(CONFIGS[family].vocab_size)
    rows, ties = refuted(tmp_path / "model", prompts, packed_cases(20, seed=len(family)), tmp_path)
    assert ties <= rows / 100


def test_documented_policy_of_the_reference_runs_as_written(tiny_opt: Path, tmp_path: Path) -> None:
    prompts = text_prompts(tiny_opt)[:8]
    expected, case = packed_reference(tiny_opt, prompts, DOCUMENTED), Case(DOCUMENTED, num_prompts=8)
    assert all(
        gap < NEAR_TIE for _, gap in expected.rows_that_differ(case, generated(tiny_opt, case, prompts, tmp_path))
    )


# -- small -------------------------------------------------------------------------------------------------------------
def test_packed_bytes_move_and_are_opened_once_a_pass(tiny_opt: Path, tmp_path: Path) -> None:
    plain = policy_with(2, 4, w=(0.0, 100.0), cache=(0.0, 100.0), act=(100.0, 0.0))
    moved, opens = [], []
    for policy in (plain, replace(plain, compress_weight=True, compress_cache=True)):
        with opened(tiny_opt, policy, tmp_path) as lm:
            lm.generate(text_prompts(tiny_opt)[:8], max_new_tokens=4, trace=True)
            moved.append(lm.env.ledger.moved["up_bytes", 2])
            opens.append([span for span in lm.timeline.spans if span.name.startswith("unpack_weight")])
            num_layers = len(lm.layers) - 2
    assert moved[1] < moved[0] / 2.4  # the head stays in float32
    assert not opens[0]
    assert len(opens[1]) == 4 * num_layers
