"""`Series`: models that differ in size, and what the ``config.json`` of many of them share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Config = dict[str, Any]
Row = tuple[str, int, int, int, int, int] | tuple[str, int, int, int, int, int, Config]


@dataclass(frozen=True, slots=True)
class Series:
    """Models that differ in size: ``prefix`` + size + one of the ``suffixes`` is the Hugging Face id.

    A row is (size, layers, hidden, heads, KV heads, feed-forward width) and, where one differs from
    ``common``, further keys of its ``config.json``; so do suffixes.
    """

    prefix: str
    common: Config
    rows: tuple[Row, ...]
    suffixes: Mapping[str, Config] = field(default_factory=lambda: {"": {}})

    def configs(self) -> Iterator[tuple[str, Config]]:
        """Each id and its ``config.json``."""
        for row in self.rows:
            for suffix, changes in self.suffixes.items():
                yield f"{self.prefix}{row[0]}{suffix}", self.common | _sizes(row, self.common) | changes


def _sizes(row: Row, common: Config) -> Config:
    _, layers, hidden, heads, kv_heads, ffn = row[:6]
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads}
    ffn_key = "ffn_dim" if common["model_type"] == "opt" else "intermediate_size"
    kv = {} if common["model_type"] == "opt" else {"num_key_value_heads": kv_heads}
    return sizes | kv | {ffn_key: ffn} | (row[6] if len(row) == 7 else {})


BF16: Config = {"torch_dtype": "bfloat16"}
TIED: Config = {"tie_word_embeddings": True}
FP8_BLOCKS: Config = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "weight_block_size": [128, 128],
    "activation_scheme": "dynamic",
}
