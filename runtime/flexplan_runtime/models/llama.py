"""The Llama family: Llama, Mistral, SmolLM, Qwen2 (query, key and value biases), Qwen3 (query and key norms).

Tensor shapes: B rows, S positions, N query heads, K kv heads, H head_dim, D hidden, F feed-forward, Q = N x H.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

import torch
from torch import Tensor

from flexplan.model import TOKENS, ModelConstants, ModelShape
from flexplan_runtime.kernels.norms import rms_norm
from flexplan_runtime.models.activations import activation
from flexplan_runtime.models.base import Family, Source, Weights, first_found, joined, residual, stacked, whole
from flexplan_runtime.models.rope import Rotary

_PREFIXES = ("model.", "")


class Llama(Family):
    """Root-mean-square norms, rotary positions, a gated feed-forward block."""

    def __init__(self, shape: ModelShape, math: ModelConstants) -> None:
        super().__init__(shape, math)
        self._activation = activation(math.activation)
        self._rotary = Rotary(math, shape.head_dim)

    def embed(self, w: Weights, token_rows_BSE: Tensor, positions_BS: Tensor) -> Tensor:
        return token_rows_BSE

    def project(self, w: Weights, hidden_BSD: Tensor, positions_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.split_heads(self.apply(w, "qkv", self.norm(w, "attention_norm", hidden_BSD)))
        if self.shape.qk_norm:
            q, k = self.norm(w, "q_norm", q), self.norm(w, "k_norm", k)
        q, k = self._rotary.turned(positions_BS, q, k)
        return q, k, v

    def merge(self, w: Weights, hidden_BSD: Tensor, attention_BSQ: Tensor, out: Tensor | None = None) -> Tensor:
        return residual(self.apply(w, "out", attention_BSQ), hidden_BSD, out)

    def mlp(self, w: Weights, hidden_BSD: Tensor, out: Tensor | None = None) -> Tensor:
        return residual(self.feed_forward(w, "", self.norm(w, "mlp_norm", hidden_BSD)), hidden_BSD, out)

    def feed_forward(self, w: Weights, prefix: str, x: Tensor) -> Tensor:
        """The gated block of the tensors that start with `prefix`, over the last dimension."""
        gate, up = self.apply(w, f"{prefix}gate_up", x).chunk(2, dim=-1)
        return self.apply(w, f"{prefix}down", self._activation(gate).mul_(up))

    def norm(self, w: Weights, name: str, x: Tensor) -> Tensor:
        return rms_norm(x, whole(w[f"{name}.weight"]).reshape(-1), self.math.norm_eps)

    def warm_up(self, dtype: torch.dtype, device: torch.device) -> None:
        super().warm_up(dtype, device)
        heads_BSNH = torch.zeros(1, 1, self.shape.num_heads, self.shape.head_dim, dtype=dtype, device=device)
        self._rotary.turned(torch.zeros(1, 1, dtype=torch.int64, device=device), heads_BSNH)

    @classmethod
    def sources(cls, shape: ModelShape, found: Container[str]) -> tuple[Source, ...]:
        prefix = next((p for p in _PREFIXES if f"{p}embed_tokens.weight" in found), _PREFIXES[0])
        return tuple(cls._sources(shape, prefix, found))

    @classmethod
    def _sources(cls, s: ModelShape, prefix: str, found: Container[str]) -> Iterator[Source]:
        if not s.tied_embeddings:
            yield from stacked([f"{prefix}embed_tokens.weight"], [s.vocab_size], s.hidden_size, TOKENS, -1)
        for layer in range(s.num_layers):
            yield from _attention_sources(s, f"{prefix}layers.{layer}.", layer)
            yield from cls.mlp_sources(s, f"{prefix}layers.{layer}.", layer, found)
        yield from stacked([f"{prefix}norm.weight"], [s.hidden_size], None, "final_norm.weight", s.num_layers)
        tokens = f"{prefix}embed_tokens.weight"
        name, hf = ("lm_head.weight", "lm_head.weight")
        if s.tied_embeddings:  # transformers ties from whichever of the two is stored
            name, hf = TOKENS, first_found([tokens, "lm_head.weight"], found)
        yield from stacked([hf], [s.vocab_size], s.hidden_size, name, s.num_layers)

    @classmethod
    def mlp_sources(cls, s: ModelShape, at: str, layer: int, found: Container[str]) -> Iterator[Source]:
        """The tensors of the feed-forward block after `at`."""
        gate_up, down = [f"{at}mlp.gate_proj", f"{at}mlp.up_proj"], [f"{at}mlp.down_proj"]
        yield from mlp_norm_source(s, at, layer)
        yield from joined(gate_up, [s.ffn_size, s.ffn_size], s.hidden_size, s.mlp_bias, "gate_up", layer)
        yield from joined(down, [s.hidden_size], s.ffn_size, s.mlp_bias, "down", layer)


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
