"""ModelShape: the numbers of a language model that planning needs; ``config.py`` reads them from a ``config.json``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flexplan.limits import MOST_LAYERS, MOST_WIDTH, PlainText, Tokens, Width
from flexplan.model.coding import StoredFormat

Positions = Literal["learned", "rotary", "alibi"]
Norm = Literal["layer", "rms"]


class Latent(BaseModel):
    """Latent attention (DeepSeek): of a token one vector is kept for all heads, of which each makes its key and value.

    Of that vector ``size`` elements are what keys and values are made of, and ``turned`` are a part of every key that
    turns by position.  A head has ``plain`` further elements of queries and keys, and ``value`` of values.  Queries are
    made of a vector of ``queries`` elements; 0: of the hidden states.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    size: Width
    turned: Width
    plain: Width
    value: Width
    queries: Annotated[int, Field(ge=0, le=MOST_WIDTH)] = 0


class ModelShape(BaseModel):
    """One decoder-only transformer: sizes and the pieces of a layer, no weights.

    Sizes are counts of elements; ``bytes_per_element`` turns them into bytes.  ``max_positions`` is the longest
    sequence, in tokens, that is computed exactly.  ``windows``: how many of the newest tokens each layer reads, 0 for
    all; empty where all layers read all.  ``norm_affine=False`` says that the norms have no weights at all (Galactica
    30b and 120b).

    Norms stand before a block (``pre_norm``), over what it adds (``added_norm``), both (Gemma) or, without either,
    over the sum (OPT-350M).  ``qk_norm``: over each head of the queries and keys, or (``qk_norm_whole``, OLMo 2) over
    all heads of a token together.  ``embed_norm``: token rows are normed (Bloom).  ``parallel``: the feed-forward block
    is given what attention is given, not what it adds to (GPT-NeoX); with ``shared_norm`` normed by the same norm.

    Of a mixture ``expert_ffn_size`` is the width of an expert (0: ``ffn_size``), ``shared_ffn_size`` that of what all
    tokens use beside theirs, and the first ``dense_layers`` layers have a plain block of ``ffn_size`` instead.
    ``router_correction``: the router has a number for each expert that counts when experts are chosen.
    With ``latent`` there is one KV head, whose key is what is kept of a token and whose value is the same vector:
    ``head_dim`` is the width of both, and of queries as they are held against it.
    ``stored`` is the format of a quantised checkpoint, whose codes stay packed wherever they lie.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: PlainText
    family: PlainText
    num_layers: Annotated[int, Field(ge=1, le=MOST_LAYERS)]
    hidden_size: Width
    num_heads: Width
    num_kv_heads: Width
    head_dim: Width
    ffn_size: Width
    gated: bool
    vocab_size: Tokens
    embed_size: Width
    tied_embeddings: bool
    positions: Positions
    max_positions: Annotated[int, Field(ge=1, le=1 << 40)]
    norm: Norm
    pre_norm: bool = True
    added_norm: bool = False
    final_norm: bool = True
    norm_affine: bool = True
    norm_bias: bool = False
    embed_norm: bool = False
    parallel: bool = False
    shared_norm: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    qk_norm_whole: bool = False
    sinks: bool = False
    capped_scores: bool = False
    windows: tuple[Annotated[int, Field(ge=0, le=1 << 40)], ...] = ()
    num_experts: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    experts_per_token: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    expert_ffn_size: Annotated[int, Field(ge=0, le=MOST_WIDTH)] = 0
    shared_ffn_size: Annotated[int, Field(ge=0, le=MOST_WIDTH)] = 0
    dense_layers: Annotated[int, Field(ge=0, le=MOST_LAYERS)] = 0
    expert_bias: bool = False
    router_correction: bool = False
    position_offset: Annotated[int, Field(ge=0, le=1 << 16)] = 0
    bytes_per_element: Annotated[int, Field(ge=1, le=8)] = 2
    latent: Latent | None = None
    stored: StoredFormat | None = None

    @model_validator(mode="after")
    def _agree(self) -> ModelShape:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is no multiple of num_kv_heads {self.num_kv_heads}")
        if self.experts_per_token > self.num_experts or bool(self.num_experts) != bool(self.experts_per_token):
            raise ValueError(f"experts_per_token {self.experts_per_token} of num_experts {self.num_experts}")
        if self.windows and len(self.windows) != self.num_layers:
            raise ValueError(f"{len(self.windows)} windows for {self.num_layers} layers")
        if self.latent and (self.num_kv_heads, self.head_dim) != (1, self.latent.size + self.latent.turned):
            raise ValueError(f"{self.num_kv_heads} KV heads of {self.head_dim} with {self.latent}")
        if self.shared_norm and not self.parallel:
            raise ValueError("shared_norm without parallel")
        return self

    @property
    def q_size(self) -> int:
        """Width of the queries of one token."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of the keys (or of the values) of one token."""
        return self.num_kv_heads * self.head_dim

    @property
    def group_size(self) -> int:
        """Query heads that share one KV head."""
        return self.num_heads // self.num_kv_heads

    @property
    def expert_width(self) -> int:
        """Feed-forward width of one expert."""
        return self.expert_ffn_size or self.ffn_size

    def is_mixture(self, depth: int) -> bool:
        """Whether layer ``depth`` has experts."""
        return self.num_experts > 0 and depth >= self.dense_layers

    @property
    def odd_scores(self) -> bool:
        """Whether attention is nothing that kernels know: caps, sinks, slopes, a vector that is key and value."""
        return self.sinks or self.odd_decoding

    @property
    def odd_decoding(self) -> bool:
        """The same of the kernels of decoding, on the host and on the gpu over plain caches, which know sinks."""
        return self.capped_scores or self.odd_over_prompts

    @property
    def odd_over_prompts(self) -> bool:
        """The same of the kernel for prompts, which knows sinks and caps."""
        return self.positions == "alibi" or self.latent is not None

    @property
    def norms_of_a_block(self) -> int:
        """Norms that attention, or the feed-forward block, has over hidden states."""
        return int(self.pre_norm or not self.added_norm) + int(self.added_norm)

    @property
    def vectors_kept(self) -> int:
        """Of a token and KV head: a key and a value, or one that is both."""
        return 1 if self.latent else 2

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token over all layers, while no window is full."""
        return self.vectors_kept * self.num_layers * self.kv_size * self.bytes_per_element

    def window(self, depth: int) -> int:
        """How many of the newest tokens layer ``depth`` reads; 0 for all.  Layers behind the last begin anew."""
        return self.windows[depth % len(self.windows)] if self.windows else 0

    def attended(self, depth: int, context: float) -> float:
        """Tokens that layer ``depth`` reads of a context."""
        return min(context, self.window(depth) or context)

    def mean_attended(self, context: int) -> float:
        """The same, over all layers."""
        if not self.windows:
            return context
        return sum(self.attended(depth, context) for depth in range(self.num_layers)) / self.num_layers

    def kept(self, depth: int, tokens: int) -> int:
        """Of a sequence's tokens those whose keys and values layer ``depth`` keeps: a window's newest, or all."""
        return min(tokens, self.window(depth) or tokens)

    def cache_bytes(self, tokens: int) -> int:
        """Bytes of keys and values that all layers keep of a sequence of so many tokens."""
        each = self.kv_bytes_per_token // self.num_layers
        return each * sum(self.kept(depth, tokens) for depth in range(self.num_layers))

    @property
    def layer_period(self) -> int:
        """The fewest layers after which windows come again; all of them where they do not."""
        windows = self.windows[: self.num_layers] or (0,)
        return next(p for p in range(1, len(windows) + 1) if windows[p:] == windows[: len(windows) - p])

    @property
    def first_of_all_kinds(self) -> int:
        """The fewest layers, from the first on, among which are all kinds that there are."""
        return min(self.num_layers, self.dense_layers + self.layer_period)

    def with_dtype(self, bytes_per_element: int) -> ModelShape:
        """The same model with elements of another width."""
        return self.model_copy(update={"bytes_per_element": bytes_per_element})
