"""OPT (all sizes; 350M is post-norm with projections) and Galactica, which is OPT with GELU.

Tensor shapes: B rows, S positions, N query heads, K kv heads, H head_dim, D hidden, E embedding, Q = N x H.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

import torch.nn.functional as F
from torch import Tensor

from flexplan.model import TOKENS, ModelConstants, ModelShape
from flexplan_runtime.kernels.norms import layer_norm
from flexplan_runtime.models.activations import activation
from flexplan_runtime.models.base import Family, Source, Weights, first_found, joined, residual, stacked, whole

_PREFIXES = ("model.decoder.", "decoder.", "")


class Opt(Family):
    """Layer norms with biases, learned positions, a two-matrix feed-forward block."""

    def __init__(self, shape: ModelShape, math: ModelConstants) -> None:
        super().__init__(shape, math)
        self._activation = activation(math.activation)

    def embed(self, w: Weights, token_rows_BSE: Tensor, positions_BS: Tensor) -> Tensor:
        rows = positions_BS.clamp(min=0) + self.shape.position_offset
        positions_BSD = F.embedding(rows, whole(w["positions.weight"]))
        if self.shape.embed_size != self.shape.hidden_size:
            token_rows_BSE = self.apply(w, "project_in", token_rows_BSE)
        return token_rows_BSE + positions_BSD

    def project(self, w: Weights, hidden_BSD: Tensor, positions_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # transformers scales q by head_dim ** -0.5 and attends with scale 1; here attention scales, for all families
        if self.shape.pre_norm:
            hidden_BSD = self.norm(w, "attention_norm", hidden_BSD)
        return self.split_heads(self.apply(w, "qkv", hidden_BSD))

    def merge(self, w: Weights, hidden_BSD: Tensor, attention_BSQ: Tensor, out: Tensor | None = None) -> Tensor:
        return self._joined(w, "attention_norm", self.apply(w, "out", attention_BSQ), hidden_BSD, out)

    def mlp(self, w: Weights, hidden_BSD: Tensor, out: Tensor | None = None) -> Tensor:
        x_BSD = self.norm(w, "mlp_norm", hidden_BSD) if self.shape.pre_norm else hidden_BSD
        x_BSD = self.apply(w, "down", self._activation(self.apply(w, "up", x_BSD)))
        return self._joined(w, "mlp_norm", x_BSD, hidden_BSD, out)

    def _joined(self, w: Weights, name: str, x_BSD: Tensor, hidden_BSD: Tensor, out: Tensor | None) -> Tensor:
        """The residual, and the norm after it where it is not before."""
        if self.shape.pre_norm:
            return residual(x_BSD, hidden_BSD, out)
        normed_BSD = self.norm(w, name, residual(x_BSD, hidden_BSD))
        return normed_BSD if out is None else out.copy_(normed_BSD)

    def norm(self, w: Weights, name: str, x: Tensor) -> Tensor:
        weight = whole(w[f"{name}.weight"]).reshape(-1) if self.shape.norm_affine else None
        bias = whole(w[f"{name}.bias"]).reshape(-1) if self.shape.norm_bias else None
        return layer_norm(x, weight, bias, self.math.norm_eps)

    @classmethod
    def sources(cls, shape: ModelShape, found: Container[str]) -> tuple[Source, ...]:
        prefix = next((p for p in _PREFIXES if f"{p}embed_tokens.weight" in found), _PREFIXES[0])
        return tuple(_sources(shape, prefix, found))


def _sources(s: ModelShape, prefix: str, found: Container[str]) -> Iterator[Source]:
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
