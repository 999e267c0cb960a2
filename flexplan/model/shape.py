"""ModelShape: the numbers of a language model that planning needs; ``configs.py`` reads them from a ``config.json``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

Positions = Literal["learned", "rotary"]
Norm = Literal["layer", "rms"]


class ModelShape(BaseModel):
    """One decoder-only transformer: sizes only, no weights.

    Sizes are counts of elements; ``bytes_per_element`` turns them into bytes.  ``max_positions`` is the
    longest sequence, in tokens, that full attention computes exactly: a sliding window lowers it to the
    window.  ``norm_affine=False`` says that the norms have no weights at all (Galactica 30b and 120b).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    family: str
    num_layers: PositiveInt
    hidden_size: PositiveInt
    num_heads: PositiveInt
    num_kv_heads: PositiveInt
    head_dim: PositiveInt
    ffn_size: PositiveInt
    gated: bool
    vocab_size: PositiveInt
    embed_size: PositiveInt
    tied_embeddings: bool
    positions: Positions
    max_positions: PositiveInt
    norm: Norm
    pre_norm: bool = True
    final_norm: bool = True
    norm_affine: bool = True
    norm_bias: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    num_experts: NonNegativeInt = 0
    experts_per_token: NonNegativeInt = 0
    position_offset: NonNegativeInt = 0
    bytes_per_element: PositiveInt = 2

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
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token over all layers."""
        return 2 * self.num_layers * self.kv_size * self.bytes_per_element

    def with_dtype(self, bytes_per_element: int) -> ModelShape:
        """The same model with elements of another width."""
        return self.model_copy(update={"bytes_per_element": bytes_per_element})
