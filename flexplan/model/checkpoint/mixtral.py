"""Where a checkpoint of Mixtral keeps its tensors: each expert's apart, or those of all experts fused."""

from __future__ import annotations

from collections.abc import Container, Iterator

from flexplan.model.checkpoint.llama import mlp_norm_source, sources_with
from flexplan.model.checkpoint.source import Source, first_found, stacked
from flexplan.model.shape import ModelShape


def mixtral_sources(s: ModelShape, found: Container[str]) -> Iterator[Source]:
    """Every tensor, the names picked by those that the checkpoint has."""
    return sources_with(_mlp_sources, s, found)


def _mlp_sources(s: ModelShape, at: str, layer: int, found: Container[str]) -> Iterator[Source]:
    routers = [f"{at}block_sparse_moe.gate.weight", f"{at}mlp.gate.weight"]
    router = first_found(routers, found)
    moe = router.removesuffix("gate.weight")
    yield from mlp_norm_source(s, at, layer)
    yield from stacked([router], [s.num_experts], s.hidden_size, "router.weight", layer)
    fused = f"{moe}experts.gate_up_proj" in found
    yield from (_fused_experts if fused else _single_experts)(s, f"{moe}experts.", layer)


def _single_experts(s: ModelShape, at: str, layer: int) -> Iterator[Source]:
    """Three matrices an expert: w1 is the gate, w3 goes up, w2 down."""
    for e in range(s.num_experts):
        gate_up = [f"{at}{e}.w1.weight", f"{at}{e}.w3.weight"]
        rows = [s.ffn_size, s.ffn_size]
        yield from stacked(gate_up, rows, s.hidden_size, f"experts.{e}.gate_up.weight", layer)
        yield from stacked([f"{at}{e}.w2.weight"], [s.hidden_size], s.ffn_size, f"experts.{e}.down.weight", layer)


def _fused_experts(s: ModelShape, at: str, layer: int) -> Iterator[Source]:
    """Two tensors for all experts, the expert first."""
    gate_up = (s.num_experts, 2 * s.ffn_size, s.hidden_size)
    down = (s.num_experts, s.hidden_size, s.ffn_size)
    for e in range(s.num_experts):
        for stem, hf_shape in (("gate_up", gate_up), ("down", down)):
            rows = hf_shape[1]
            yield Source(f"{at}{stem}_proj", hf_shape, e * rows, f"experts.{e}.{stem}.weight", layer, 0, rows)
