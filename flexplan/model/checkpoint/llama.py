"""Where a checkpoint of Llama, Mistral, Qwen2 or Qwen3 keeps its tensors."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator

from flexplan.model.checkpoint.source import Source, first_found, joined, stacked
from flexplan.model.shape import ModelShape
from flexplan.model.tensors import TOKENS

_PREFIXES = ("model.", "")
Mlp = Callable[[ModelShape, str, int, Container[str]], Iterator[Source]]


def llama_sources(s: ModelShape, found: Container[str]) -> Iterator[Source]:
    """Every tensor, the names picked by those that the checkpoint has."""
    return sources_with(_mlp_sources, s, found)


def sources_with(mlp: Mlp, s: ModelShape, found: Container[str]) -> Iterator[Source]:
    """Those of Llama, but for the feed-forward blocks."""
    prefix = next((p for p in _PREFIXES if f"{p}embed_tokens.weight" in found), _PREFIXES[0])
    if not s.tied_embeddings:
        yield from stacked([f"{prefix}embed_tokens.weight"], [s.vocab_size], s.hidden_size, TOKENS, -1)
    for layer in range(s.num_layers):
        yield from _attention_sources(s, f"{prefix}layers.{layer}.", layer)
        yield from mlp(s, f"{prefix}layers.{layer}.", layer, found)
    yield from stacked([f"{prefix}norm.weight"], [s.hidden_size], None, "final_norm.weight", s.num_layers)
    tokens = f"{prefix}embed_tokens.weight"
    name, hf = ("lm_head.weight", "lm_head.weight")
    if s.tied_embeddings:  # transformers ties from whichever of the two is stored
        name, hf = TOKENS, first_found([tokens, "lm_head.weight"], found)
    yield from stacked([hf], [s.vocab_size], s.hidden_size, name, s.num_layers)


def mlp_norm_source(s: ModelShape, at: str, layer: int) -> list[Source]:
    """The norm before the feed-forward block, which Hugging Face calls post-attention."""
    return stacked([f"{at}post_attention_layernorm.weight"], [s.hidden_size], None, "mlp_norm.weight", layer)


def _attention_sources(s: ModelShape, at: str, layer: int) -> Iterator[Source]:
    qkv = [f"{at}self_attn.{x}_proj" for x in "qkv"]
    yield from stacked([f"{at}input_layernorm.weight"], [s.hidden_size], None, "attention_norm.weight", layer)
    yield from joined(qkv, [s.q_size, s.kv_size, s.kv_size], s.hidden_size, s.qkv_bias, "qkv", layer)
    if s.qk_norm:
        yield from stacked([f"{at}self_attn.q_norm.weight"], [s.head_dim], None, "q_norm.weight", layer)
        yield from stacked([f"{at}self_attn.k_norm.weight"], [s.head_dim], None, "k_norm.weight", layer)
    yield from joined([f"{at}self_attn.o_proj"], [s.hidden_size], s.q_size, s.out_bias, "out", layer)


def _mlp_sources(s: ModelShape, at: str, layer: int, _found: Container[str]) -> Iterator[Source]:
    gate_up, down = [f"{at}mlp.gate_proj", f"{at}mlp.up_proj"], [f"{at}mlp.down_proj"]
    yield from mlp_norm_source(s, at, layer)
    yield from joined(gate_up, [s.ffn_size, s.ffn_size], s.hidden_size, s.mlp_bias, "gate_up", layer)
    yield from joined(down, [s.hidden_size], s.ffn_size, s.mlp_bias, "down", layer)
