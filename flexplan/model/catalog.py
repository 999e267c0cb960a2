"""Models known by name, as the ``config.json`` each of them has: planning needs no download.

Rows are what their makers published; a model directory on disk always comes before the row of its name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from flexplan.errors import UsageError
from flexplan.files import is_directory, is_file
from flexplan.model.config import read_config
from flexplan.model.constants import ModelConstants
from flexplan.model.shape import ModelShape

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


def _llama3_rope(factor: float) -> Config:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


OPT = {"model_type": "opt", "torch_dtype": "float16", "vocab_size": 50272, "max_position_embeddings": 2048}
GALACTICA = OPT | {"vocab_size": 50000, "activation_function": "gelu", "bos_token_id": 0}
NO_BIAS = {"enable_bias": False, "layer_norm_elementwise_affine": False}
BF16 = {"torch_dtype": "bfloat16"}
TIED = {"tie_word_embeddings": True}
LLAMA = BF16 | {"model_type": "llama", "rms_norm_eps": 1e-5}
LLAMA_2 = LLAMA | {"torch_dtype": "float16", "vocab_size": 32000, "max_position_embeddings": 4096}
LLAMA_3 = LLAMA | {"vocab_size": 128256, "rope_theta": 500_000.0, "bos_token_id": 128000, "eos_token_id": 128001}
LLAMA_31 = LLAMA_3 | {"max_position_embeddings": 131072, "rope_scaling": _llama3_rope(8.0)}
LLAMA_32 = LLAMA_31 | TIED | {"rope_scaling": _llama3_rope(32.0)}
QWEN = BF16 | {"rope_theta": 1e6, "rms_norm_eps": 1e-6, "vocab_size": 151936, "bos_token_id": 151643}
QWEN_25 = QWEN | {"model_type": "qwen2", "max_position_embeddings": 32768, "eos_token_id": 151643}
QWEN_25_LARGE = QWEN_25 | {"vocab_size": 152064, "max_position_embeddings": 131072}
QWEN_25_CHAT = {"eos_token_id": 151645, "max_position_embeddings": 32768}
QWEN_3 = QWEN | {"model_type": "qwen3", "head_dim": 128, "max_position_embeddings": 40960, "eos_token_id": 151645}
MISTRAL = BF16 | {
    "model_type": "mistral",
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "sliding_window": None,
}
MISTRAL_V1 = {"rope_theta": 10_000.0, "sliding_window": 4096}
MIXTRAL = MISTRAL | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
SMOL = LLAMA | TIED | {"vocab_size": 49152, "max_position_embeddings": 8192, "bos_token_id": 0, "eos_token_id": 0}
LLAMA_3_CHAT = {"eos_token_id": [128001, 128009]}
LLAMA_31_CHAT = {"eos_token_id": [128001, 128008, 128009]}

SERIES = (
    Series(
        "facebook/opt-",
        OPT,
        (
            ("125m", 12, 768, 12, 12, 3072),
            ("350m", 24, 1024, 16, 16, 4096, {"word_embed_proj_dim": 512, "do_layer_norm_before": False}),
            ("1.3b", 24, 2048, 32, 32, 8192),
            ("2.7b", 32, 2560, 32, 32, 10240),
            ("6.7b", 32, 4096, 32, 32, 16384),
            ("13b", 40, 5120, 40, 40, 20480),
            ("30b", 48, 7168, 56, 56, 28672),
            ("66b", 64, 9216, 72, 72, 36864),
            ("175b", 96, 12288, 96, 96, 49152),
            ("iml-1.3b", 24, 2048, 32, 32, 8192),
            ("iml-30b", 48, 7168, 56, 56, 28672),
            ("iml-max-1.3b", 24, 2048, 32, 32, 8192),
            ("iml-max-30b", 48, 7168, 56, 56, 28672),
        ),
    ),
    Series(
        "facebook/galactica-",
        GALACTICA,
        (
            ("125m", 12, 768, 12, 12, 3072),
            ("1.3b", 24, 2048, 32, 32, 8192),
            ("6.7b", 32, 4096, 32, 32, 16384),
            ("30b", 48, 7168, 56, 56, 28672, NO_BIAS),
            ("120b", 96, 10240, 80, 80, 40960, NO_BIAS),
        ),
    ),
    Series(
        "meta-llama/Llama-2-",
        LLAMA_2,
        (
            ("7b", 32, 4096, 32, 32, 11008),
            ("13b", 40, 5120, 40, 40, 13824),
            ("70b", 80, 8192, 64, 8, 28672),
        ),
        {"-hf": {}, "-chat-hf": {}},
    ),
    Series(
        "meta-llama/Meta-Llama-3-",
        LLAMA_3 | {"max_position_embeddings": 8192},
        (("8B", 32, 4096, 32, 8, 14336), ("70B", 80, 8192, 64, 8, 28672)),
        {"": {}, "-Instruct": LLAMA_3_CHAT},
    ),
    Series(
        "meta-llama/Llama-3.1-",
        LLAMA_31,
        (
            ("8B", 32, 4096, 32, 8, 14336),
            ("70B", 80, 8192, 64, 8, 28672),
            ("405B", 126, 16384, 128, 8, 53248),
        ),
        {"": {}, "-Instruct": LLAMA_31_CHAT},
    ),
    Series(
        "meta-llama/Llama-3.2-",
        LLAMA_32,
        (("1B", 16, 2048, 32, 8, 8192), ("3B", 28, 3072, 24, 8, 8192)),
        {"": {}, "-Instruct": LLAMA_31_CHAT},
    ),
    Series(
        "Qwen/Qwen2.5-",
        QWEN_25 | TIED,
        (
            ("0.5B", 24, 896, 14, 2, 4864),
            ("1.5B", 28, 1536, 12, 2, 8960),
            ("3B", 36, 2048, 16, 2, 11008),
        ),
        {"": {}, "-Instruct": QWEN_25_CHAT},
    ),
    Series(
        "Qwen/Qwen2.5-",
        QWEN_25_LARGE,
        (
            ("7B", 28, 3584, 28, 4, 18944),
            ("14B", 48, 5120, 40, 8, 13824),
            ("32B", 64, 5120, 40, 8, 27648),
            ("72B", 80, 8192, 64, 8, 29568),
        ),
        {"": {}, "-Instruct": QWEN_25_CHAT},
    ),
    Series(
        "Qwen/Qwen3-",
        QWEN_3,
        (
            ("0.6B", 28, 1024, 16, 8, 3072, TIED),
            ("1.7B", 28, 2048, 16, 8, 6144, TIED),
            ("4B", 36, 2560, 32, 8, 9728, TIED),
            ("8B", 36, 4096, 32, 8, 12288),
            ("14B", 40, 5120, 40, 8, 17408),
            ("32B", 64, 5120, 64, 8, 25600),
        ),
    ),
    Series(
        "mistralai/Mistral-7B-",
        MISTRAL,
        (
            ("v0.1", 32, 4096, 32, 8, 14336, MISTRAL_V1),
            ("Instruct-v0.1", 32, 4096, 32, 8, 14336, MISTRAL_V1),
            ("Instruct-v0.2", 32, 4096, 32, 8, 14336),
            ("v0.3", 32, 4096, 32, 8, 14336, {"vocab_size": 32768}),
            ("Instruct-v0.3", 32, 4096, 32, 8, 14336, {"vocab_size": 32768}),
        ),
    ),
    Series(
        "mistralai/Mixtral-",
        MIXTRAL,
        (
            ("8x7B-v0.1", 32, 4096, 32, 8, 14336),
            ("8x7B-Instruct-v0.1", 32, 4096, 32, 8, 14336),
            ("8x22B-v0.1", 56, 6144, 48, 8, 16384, {"max_position_embeddings": 65536}),
            ("8x22B-Instruct-v0.1", 56, 6144, 48, 8, 16384, {"max_position_embeddings": 65536, "vocab_size": 32768}),
        ),
    ),
    Series(
        "HuggingFaceTB/SmolLM2-",
        SMOL,
        (
            ("135M", 30, 576, 9, 3, 1536, {"rope_theta": 100_000.0}),
            ("360M", 32, 960, 15, 5, 2560, {"rope_theta": 100_000.0}),
            ("1.7B", 24, 2048, 32, 32, 8192, {"rope_theta": 130_000.0}),
        ),
        {"": {}, "-Instruct": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}},
    ),
)


@cache
def _configs() -> dict[str, Config]:
    return {name: config for series in SERIES for name, config in series.configs()}


@cache
def _short_names() -> dict[str, str]:
    """Lower-case id, id without its owner, and that without ``-hf``, each to the id."""
    names: dict[str, str] = {}
    for full in _configs():
        tail = full.lower().split("/")[1]
        names |= {full.lower(): full, tail: full, tail.removesuffix("-hf"): full}
    return names


def model_names() -> tuple[str, ...]:
    """The full Hugging Face ids that need no file."""
    return tuple(_configs())


def model_config(name: str) -> Config:
    """The ``config.json`` of a model known by its id or its short name; the caller may change it."""
    full = _short_names().get(name.lower())
    if full is None:
        raise _unknown(name)
    return dict(_configs()[full])


def read_model(name: str | Path) -> tuple[ModelShape, ModelConstants]:
    """Sizes and constants of a model directory, a ``config.json``, or a model known by name.

    >>> read_model("opt-30b")[0].name
    'facebook/opt-30b'
    """
    known = _short_names().get(str(name).lower())
    # a directory that only happens to bear the name of a model is not one
    if str(name) and (is_file(name) or is_file(Path(name) / "config.json") or (known is None and is_directory(name))):
        return read_config(name)
    return read_config(model_config(str(name)), known)


def model_shape(name: str | Path) -> ModelShape:
    """Only the sizes of `read_model`."""
    return read_model(name)[0]


def _unknown(name: str) -> UsageError:
    close = difflib.get_close_matches(name.lower(), _short_names(), n=9, cutoff=0.5)
    ids = list(dict.fromkeys(_short_names()[c] for c in close))[:3]
    hint = f"did you mean {', '.join(ids)}?" if ids else f"known are {', '.join(model_names()[:3])}, ..."
    message = f"model {name!r} is neither a model directory nor a known name"
    return UsageError("FP120", message, fix=f"{hint} or give a directory with a config.json")
