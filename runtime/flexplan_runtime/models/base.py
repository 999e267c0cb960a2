"""What a model family is: five functions of weights and activations.

Tensor shapes, by letter: B rows, S positions, N query heads, K kv heads, H head_dim, D hidden, E embedding,
Q = N x H, V vocabulary, T = B x S tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from flexplan.model import TOKENS, ModelConstants, ModelShape
from flexplan.model.tensors import CORRECTION, SINKS
from flexplan_runtime.kernels.attention_rule import AttentionRule

Pieces = Sequence[Tensor]
Weights = Mapping[str, Pieces]
"""Canonical tensor name -> one or more row pieces; a share of a layer may be cut between two memories."""


def whole(pieces: Pieces) -> Tensor:
    """The pieces as one tensor."""
    return pieces[0] if len(pieces) == 1 else torch.cat(tuple(pieces))


def linear(x: Tensor, pieces: Pieces, bias_pieces: Pieces | None = None) -> Tensor:
    """``x @ weight.T + bias`` of a weight in row pieces; bias and weight may be cut differently."""
    bias = None if bias_pieces is None else whole(bias_pieces).reshape(-1)
    if len(pieces) == 1:
        return F.linear(x, pieces[0], bias)
    widths = [len(piece) for piece in pieces]
    out = x.new_empty(*x.shape[:-1], sum(widths))  # each piece writes its columns: nothing is held twice
    x_TD, columns = x.flatten(0, -2), out.view(-1, sum(widths)).split(widths, dim=1)
    biases = [None] * len(pieces) if bias is None else bias.split(widths)
    for piece, bias, to in zip(pieces, biases, columns, strict=True):
        if bias is None:
            torch.mm(x_TD, piece.t(), out=to)
        else:
            torch.addmm(bias, x_TD, piece.t(), out=to)
    return out


def residual(x: Tensor, hidden: Tensor, out: Tensor | None = None) -> Tensor:
    """``x + hidden`` in ``out``, or else over ``x``."""
    return torch.add(x, hidden, out=x if out is None else out)


class Reader(Protocol):
    """Where weights come from."""

    def read_rows(self, name: str, layer: int, row_start: int, rows: int, out: Tensor) -> None:
        """Fill `out` with rows of a tensor."""


class Family(ABC):
    """The maths of one model; `w` always holds the tensors of the layer at hand under their canonical names.

    Nothing here knows where its arguments live or mutates one, but for ``out``, which may be the hidden states
    themselves; all tensors of a call are on one device.
    """

    def __init__(self, shape: ModelShape, math: ModelConstants) -> None:
        self.shape = shape
        self.math = math
        self._rules: dict[tuple[int, torch.device], AttentionRule] = {}
        self._sinks = self._corrections = torch.empty(0)

    @property
    def scale(self) -> float:
        """What attention multiplies ``q @ k`` by."""
        return self.math.attention_scale

    @property
    def turns_by_length(self) -> bool:
        """True where a row's positions turn queries and keys by how long it is: rows cannot be joined to one."""
        return self.math.rope_scaling is not None and self.math.rope_scaling.type in ("dynamic", "longrope")

    def rule(self, depth: int, device: torch.device) -> AttentionRule:
        """What attention of layer ``depth`` makes of scores on a device."""
        place = (depth if self.shape.windows or self.shape.sinks else 0, device)
        if place not in self._rules:
            self._rules[place] = self._rule(*place)
        return self._rules[place]

    def _rule(self, depth: int, device: torch.device) -> AttentionRule:
        by_head = (self.shape.num_kv_heads, self.shape.group_size)
        slopes = torch.tensor(self.math.alibi_slopes).view(by_head).to(device) if self.math.alibi_slopes else None
        sinks = self._sinks[depth].view(by_head).to(device) if self.shape.sinks else None
        window, same = self.shape.window(depth), self.shape.latent is not None
        rounded = self.math.alibi_rounded
        return AttentionRule(self.scale, window, self.math.attention_softcap, slopes, sinks, rounded, same)

    def learn(self, reader: Reader) -> None:
        """Keep what is needed in float32, or on both sides of the link: a few numbers a head, or an expert."""
        if self.shape.sinks:
            self._sinks = torch.empty(self.shape.num_layers, self.shape.num_heads)
            for depth in range(self.shape.num_layers):
                reader.read_rows(SINKS, depth, 0, self.shape.num_heads, self._sinks[depth])
        if self.shape.router_correction:
            self._corrections = torch.zeros(self.shape.num_layers, self.shape.num_experts)
            for depth in range(self.shape.dense_layers, self.shape.num_layers):
                reader.read_rows(CORRECTION, depth, 0, self.shape.num_experts, self._corrections[depth])

    @abstractmethod
    def embed(self, w: Weights, token_rows_BSE: Tensor, positions_BS: Tensor) -> Tensor:
        """Hidden states (B, S, D) of gathered token rows; negative positions are padding and count as 0."""

    @abstractmethod
    def project(
        self, w: Weights, hidden_BSD: Tensor, positions_BS: Tensor, depth: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, S, N, H), keys and values (B, S, K, H) of layer ``depth``, ready for attention; may be views."""

    @abstractmethod
    def merge(self, w: Weights, hidden_BSD: Tensor, attention_BSQ: Tensor, out: Tensor | None = None) -> Tensor:
        """Hidden states after the output projection of attention and its residual, in ``out`` if it is given."""

    @abstractmethod
    def mlp(self, w: Weights, hidden_BSD: Tensor, out: Tensor | None = None) -> Tensor:
        """Hidden states after the feed-forward block and its residual, in ``out`` if it is given."""

    def routes(self, w: Weights, hidden_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Of a mixture: what each token's experts count for (float32), and which they are, (T, A)."""
        raise NotImplementedError(f"{type(self).__name__} has no experts")

    def experts(
        self, w: Weights, hidden_BSD: Tensor, gates_TA: Tensor, experts_TA: Tensor, out: Tensor | None = None
    ) -> Tensor:
        """`mlp` by what `routes` found; of other experts no weight is read."""
        raise NotImplementedError(f"{type(self).__name__} has no experts")

    @abstractmethod
    def both(self, w: Weights, hidden_BSD: Tensor, attention_BSQ: Tensor, out: Tensor | None = None) -> Tensor:
        """Hidden states after both blocks of a layer that gives them the same, in ``out`` if it is given."""

    @abstractmethod
    def norm(self, w: Weights, name: str, x: Tensor) -> Tensor:
        """The normalisation `name` over the last dimension."""

    def prepare(self, w: dict[str, Pieces], depth: int) -> None:  # noqa: B027  # most have nothing to find out
        """Add to the weights of a layer, which stay where they are, what else every step would find out again."""

    def asks_the_host(self, cuts: Sequence[tuple[str, int]]) -> bool:
        """Whether a step waits for the host, and cannot be captured; ``cuts``: (tensor, row) where pieces part."""
        return False

    def warm_up(self, dtype: torch.dtype, device: torch.device) -> None:
        """Have compiled what a step launches on this device."""
        x_BSD = torch.zeros(1, 1, self.shape.hidden_size, dtype=dtype, device=device)
        self.norm({"warm.weight": [x_BSD], "warm.bias": [x_BSD]}, "warm", x_BSD)

    def head(self, w: Weights, hidden_BD: Tensor) -> Tensor:
        """Logits (B, V) of the last positions."""
        if self.shape.final_norm:
            hidden_BD = self.norm(w, "final_norm", hidden_BD)
        if self.shape.embed_size != self.shape.hidden_size:
            hidden_BD = self.apply(w, "project_out", hidden_BD)
        return linear(hidden_BD, w[TOKENS if self.shape.tied_embeddings else "lm_head.weight"])

    def apply(self, w: Weights, name: str, x: Tensor) -> Tensor:
        """The linear map `name`, with its bias if it has one."""
        return linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def split_heads(self, qkv_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views of (B, S, Q + 2KH) as q (B, S, N, H), k and v (B, S, K, H)."""
        s = self.shape
        heads = qkv_BS.view(*qkv_BS.shape[:-1], -1, s.head_dim)
        q, k, v = torch.split(heads, [s.num_heads, s.num_kv_heads, s.num_kv_heads], dim=-2)
        return q, k, v
