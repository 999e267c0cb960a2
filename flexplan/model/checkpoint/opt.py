"""Where a checkpoint of OPT or Galactica keeps its tensors."""

from __future__ import annotations

from collections.abc import Container, Iterator

from flexplan.model.checkpoint.source import Source, first_found, joined, stacked
from flexplan.model.shape import ModelShape
from flexplan.model.tensors import TOKENS

_PREFIXES = ("model.decoder.", "decoder.", "")


def opt_sources(s: ModelShape, found: Container[str]) -> Iterator[Source]:
    """Every tensor, the names picked by those that the checkpoint has."""
    prefix = next((p for p in _PREFIXES if f"{p}embed_tokens.weight" in found), _PREFIXES[0])
    yield from _embed_sources(s, prefix)
    for layer in range(s.num_layers):
        yield from _layer_sources(s, f"{prefix}layers.{layer}.", layer)
    yield from _head_sources(s, prefix, found)


def _embed_sources(s: ModelShape, prefix: str) -> Iterator[Source]:
    if not s.tied_embeddings:
        yield from stacked([f"{prefix}embed_tokens.weight"], [s.vocab_size], s.embed_size, TOKENS, -1)
    rows = s.max_positions + s.position_offset
    yield from stacked([f"{prefix}embed_positions.weight"], [rows], s.hidden_size, "positions.weight", -1)
    if s.embed_size != s.hidden_size:
        yield from stacked([f"{prefix}project_in.weight"], [s.hidden_size], s.embed_size, "project_in.weight", -1)


def _layer_sources(s: ModelShape, at: str, layer: int) -> Iterator[Source]:
    qkv = [f"{at}self_attn.{x}_proj" for x in "qkv"]
    yield from _norm_sources(s, f"{at}self_attn_layer_norm", "attention_norm", layer)
    yield from joined(qkv, [s.q_size, s.kv_size, s.kv_size], s.hidden_size, s.qkv_bias, "qkv", layer)
    yield from joined([f"{at}self_attn.out_proj"], [s.hidden_size], s.q_size, s.out_bias, "out", layer)
    yield from _norm_sources(s, f"{at}final_layer_norm", "mlp_norm", layer)
    yield from joined([f"{at}fc1"], [s.ffn_size], s.hidden_size, s.mlp_bias, "up", layer)
    yield from joined([f"{at}fc2"], [s.hidden_size], s.ffn_size, s.mlp_bias, "down", layer)


def _head_sources(s: ModelShape, prefix: str, found: Container[str]) -> Iterator[Source]:
    if s.final_norm:
        # one .npy per tensor, as FlexLLMGen writes it, calls the last norm "layer_norm"
        names = [f"{prefix}final_layer_norm", f"{prefix}layer_norm"]
        stem = first_found([f"{name}.weight" for name in names], found).removesuffix(".weight")
        yield from _norm_sources(s, stem, "final_norm", s.num_layers)
    if s.embed_size != s.hidden_size:
        rows = [s.embed_size]
        yield from stacked([f"{prefix}project_out.weight"], rows, s.hidden_size, "project_out.weight", s.num_layers)
    tokens = f"{prefix}embed_tokens.weight"
    name, hf = ("lm_head.weight", "lm_head.weight")
    if s.tied_embeddings:  # transformers ties from whichever of the two is stored
        name, hf = TOKENS, first_found([tokens, "lm_head.weight"], found)
    yield from stacked([hf], [s.vocab_size], s.embed_size, name, s.num_layers)


def _norm_sources(s: ModelShape, hf_stem: str, stem: str, layer: int) -> Iterator[Source]:
    kinds = ["weight"] * s.norm_affine + ["bias"] * s.norm_bias
    for kind in kinds:
        yield from stacked([f"{hf_stem}.{kind}"], [s.hidden_size], None, f"{stem}.{kind}", layer)
