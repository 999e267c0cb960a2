"""The weight tensors of a model, layer by layer, under flexplan's own names.

Projections that share their input are one tensor (``qkv``, ``gate_up``): fewer, larger matrix
products, and a share of a layer is cut in at most two of them.  Rows are outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from flexplan.model.coding import Coding
from flexplan.model.packing import Packing
from flexplan.model.shape import Latent, ModelShape

EMBED, ATTENTION, MLP, HEAD = "embed", "attention", "mlp", "head"
TOKENS = "tokens.weight"
ROUTER = "router.weight"
CORRECTION = "router_correction.weight"
SINKS = "sinks.weight"
ROUTING = ("mlp_norm.", "router")  # what the tensors are called that choose a mixture's experts; none is ever packed


@dataclass(frozen=True, slots=True)
class WeightTensor:
    """A matrix of ``rows`` x ``cols`` elements (a vector has cols == 1) in the block ``block`` of layer ``layer``."""

    name: str
    layer: int  # 0 .. num_layers - 1; -1 for the embedding, num_layers for the head
    block: str
    rows: int
    cols: int = 1
    bytes_per_element: int = 2
    packing: Packing | Coding | None = None

    def rows_bytes(self, rows: int) -> int:
        """Bytes of ``rows`` rows as they are stored, from a grain's beginning on."""
        if self.packing:
            return self.packing.rows_bytes(rows, self.cols)
        return rows * self.cols * self.bytes_per_element

    @property
    def nbytes(self) -> int:
        """Bytes as stored."""
        return self.rows_bytes(self.rows)

    @property
    def unpacked_bytes(self) -> int:
        """Bytes as layers compute with them."""
        return self.rows * self.cols * self.bytes_per_element

    @property
    def grain_rows(self) -> int:
        """Rows that share their scales, and are never parted."""
        return self.packing.grain_rows if self.packing else 1


def _norm(s: ModelShape, name: str) -> list[tuple[str, int, int]]:
    if not s.norm_affine:
        return []
    rows = [(f"{name}.weight", s.hidden_size, 1)]
    return [*rows, (f"{name}.bias", s.hidden_size, 1)] if s.norm_bias else rows


def _linear(name: str, out: int, into: int, bias: bool) -> list[tuple[str, int, int]]:
    rows = [(f"{name}.weight", out, into)]
    return [*rows, (f"{name}.bias", out, 1)] if bias else rows


def _embed(s: ModelShape) -> list[tuple[str, int, int]]:
    tensors = [] if s.tied_embeddings else [(TOKENS, s.vocab_size, s.embed_size)]
    if s.positions == "learned":
        tensors.append(("positions.weight", s.max_positions + s.position_offset, s.hidden_size))
    if s.embed_size != s.hidden_size:
        tensors.append(("project_in.weight", s.hidden_size, s.embed_size))
    return [*tensors, *_norm(s, "embed_norm")] if s.embed_norm else tensors


def _attention(s: ModelShape) -> list[tuple[str, int, int]]:
    if s.latent:
        return [*_norm(s, "attention_norm"), *_latent(s, s.latent)]
    widths = (s.q_size, s.kv_size) if s.qk_norm_whole else (s.head_dim, s.head_dim)
    qk = [(f"{x}_norm.weight", width, 1) for x, width in zip("qk", widths, strict=True)] if s.qk_norm else []
    return [
        *(_norm(s, "attention_norm") if s.norms_of_a_block > s.added_norm else []),
        *_linear("qkv", s.q_size + 2 * s.kv_size, s.hidden_size, s.qkv_bias),
        *qk,
        *_sinks(s),
        *_linear("out", s.hidden_size, s.q_size, s.out_bias),
        *(_norm(s, "attention_added_norm") if s.added_norm else []),
    ]


def _latent(s: ModelShape, a: Latent) -> list[tuple[str, int, int]]:
    """``kv_up`` makes of what is kept each head's part of the key that does not turn, then its value."""
    queries = s.num_heads * (a.plain + a.turned)
    made = [
        *_linear("q_down", a.queries, s.hidden_size, s.qkv_bias),
        ("q_down_norm.weight", a.queries, 1),
        ("q_up.weight", queries, a.queries),
    ]
    return [
        *(made if a.queries else [("q.weight", queries, s.hidden_size)]),
        *_linear("kv_down", a.size + a.turned, s.hidden_size, s.qkv_bias),
        ("kv_down_norm.weight", a.size, 1),
        ("kv_up.weight", s.num_heads * (a.plain + a.value), a.size),
        *_linear("out", s.hidden_size, s.num_heads * a.value, s.out_bias),
    ]


def _sinks(s: ModelShape) -> list[tuple[str, int, int]]:
    return [(SINKS, s.num_heads, 1)] if s.sinks else []


def _block(s: ModelShape, prefix: str, width: int, bias: bool) -> list[tuple[str, int, int]]:
    """The two or three matrices of a feed-forward block; gate and up are one."""
    up, rows = ("gate_up", 2 * width) if s.gated else ("up", width)
    into, out = f"{prefix}{up}", f"{prefix}down"
    return [*_linear(into, rows, s.hidden_size, bias), *_linear(out, s.hidden_size, width, bias)]


def _mlp(s: ModelShape, depth: int) -> list[tuple[str, int, int]]:
    norm = _norm(s, "mlp_norm") if s.norms_of_a_block > s.added_norm and not s.shared_norm else []
    added = _norm(s, "mlp_added_norm") if s.added_norm else []
    if not s.is_mixture(depth):
        return [*norm, *_block(s, "", s.ffn_size, s.mlp_bias), *added]
    router = _linear("router", s.num_experts, s.hidden_size, s.expert_bias)
    correction = [(CORRECTION, s.num_experts, 1)] if s.router_correction else []
    shared = _block(s, "shared.", s.shared_ffn_size, s.mlp_bias) if s.shared_ffn_size else []
    experts = [
        tensor for e in range(s.num_experts) for tensor in _block(s, f"experts.{e}.", s.expert_width, s.expert_bias)
    ]
    return [*norm, *router, *correction, *shared, *added, *experts]


def expert_of(name: str) -> int | None:
    """Which expert a tensor is part of; None where it is part of none.

    >>> expert_of("experts.12.down.weight"), expert_of("shared.down.weight")
    (12, None)
    """
    block, _, rest = name.partition(".")
    return int(rest.partition(".")[0]) if block == "experts" else None


def _head(s: ModelShape) -> list[tuple[str, int, int]]:
    norm = _norm(s, "final_norm") if s.final_norm else []
    project = [("project_out.weight", s.embed_size, s.hidden_size)] if s.embed_size != s.hidden_size else []
    table = TOKENS if s.tied_embeddings else "lm_head.weight"
    return [*norm, *project, (table, s.vocab_size, s.embed_size)]


def _is_packed(name: str, block: str, cols: int) -> bool:
    """Matrices of the transformer layers; token tables, the head and a router stay as they are, as in GPTQ and AWQ."""
    return block in (ATTENTION, MLP) and cols > 1 and name != ROUTER


def _coding(shape: ModelShape, layer: int, name: str) -> Coding | None:
    return shape.stored.coding_of(layer, name) if shape.stored else None


@cache
def weight_tensors(shape: ModelShape, packing: Packing | None = None) -> tuple[WeightTensor, ...]:
    """All weight tensors in the order of the computation; a tied token table stands once, at the head.

    Matrices of the layers are packed as `packing` says, else as their checkpoint stores them.
    """
    found: list[WeightTensor] = []

    def add(layer: int, block: str, rows: list[tuple[str, int, int]]) -> None:
        for name, r, c in rows:
            packed = packing or _coding(shape, layer, name) if _is_packed(name, block, c) else None
            found.append(WeightTensor(name, layer, block, r, c, shape.bytes_per_element, packed))

    add(-1, EMBED, _embed(shape))
    for layer in range(shape.num_layers):
        add(layer, ATTENTION, _attention(shape))
        add(layer, MLP, _mlp(shape, layer))
    add(shape.num_layers, HEAD, _head(shape))
    return tuple(found)


def weight_bytes(shape: ModelShape) -> int:
    """Bytes of all weights."""
    return sum(t.nbytes for t in weight_tensors(shape))
