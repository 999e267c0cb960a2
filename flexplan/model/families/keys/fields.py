"""The keys of a ``config.json`` that a family reads: transformers' defaults of them, and each taken by its type.

A key that transformers ignores for a family is ignored here; a missing one takes transformers' default for that
family, except the sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flexplan.errors import ModelFilesError
from flexplan.limits import MOST_LAYERS as MOST_LAYERS
from flexplan.model.constants import Dtype, ModelConstants
from flexplan.model.shape import ModelShape
from flexplan.model.token_rules import read_ids

# what transformers reads for every family, though none of their own configurations has it
ANY: dict[str, Any] = {"is_causal": True, "sliding_window": None, "attention_chunk_size": None, "layer_types": None}
_NONE: Mapping[str, str] = {}
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
# other names of the same functions; what sets them apart in transformers is how they are computed
_SAME_ACTIVATIONS = {
    "swish": "silu",
    "gelu_python": "gelu",
    "gelu_fast": "gelu_pytorch_tanh",
    "gelu_accurate": "gelu_pytorch_tanh",
}
_ACTIVATIONS = ("relu", "gelu", "gelu_new", "gelu_pytorch_tanh", "silu")
_FULL, _SLIDING, _CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
_DTYPE_BYTES: dict[Dtype, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
_DTYPE_ALIASES = {"half": "float16", "float": "float32"}
MOST = 1 << 30


class Fields:
    """The keys that a family reads, each taken by a method that knows its type."""

    def __init__(
        self,
        config: Mapping[str, Any],
        family: str,
        where: str,
        defaults: Mapping[str, Any],
        ffn: str = "intermediate_size",
        also: Mapping[str, str] = _NONE,
    ) -> None:
        """``ffn``: what the feed-forward's width is called, empty where it is no key; ``also``: keys by other names."""
        self.family, self.where, self.given = family, where, config
        config = self._by_our_names(also)
        sizes = (*_SIZES, *(() if not ffn or ffn in defaults else (ffn,)))
        called = {ours: theirs for theirs, ours in also.items()}
        for key in sizes:
            if key not in config:
                message = f"{where}: key {called.get(key, key)!r} is missing"
                raise ModelFilesError("FP502", message, fix=f"a {family} model needs it")
        self.values = {**defaults, **{k: v for k, v in config.items() if k in defaults or k in sizes}}

    def _by_our_names(self, also: Mapping[str, str]) -> dict[str, Any]:
        """The config, its keys called as most families call them; two names of a key must agree."""
        config = dict(self.given)
        for theirs, ours in also.items():
            if theirs not in config:
                continue
            if ours in config and config[ours] != config[theirs]:
                message = (
                    f"{self.where}: {theirs} is {config[theirs]!r} and {ours} is {config[ours]!r}, which are one key"
                )
                raise ModelFilesError("FP506", message, fix=f"remove one of {theirs} and {ours}")
            config[ours] = config[theirs]
        return config

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def wrong(self, key: str, allowed: str) -> ModelFilesError:
        """The error for a value that is not what it should be."""
        message = f"{self.where}: {key} is {self.values.get(key)!r}, allowed is {allowed}"
        return ModelFilesError("FP503", message, fix=f"correct {key} or download the file again")

    def count(self, key: str, most: int = MOST) -> int:
        """A whole number from 1 to ``most``."""
        value = self.values.get(key)
        if type(value) is not int or not 1 <= value <= most:
            raise self.wrong(key, f"a whole number from 1 to {most}")
        return value

    def flag(self, key: str) -> bool:
        """A truth value; False where the family does not read the key."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def number(self, key: str) -> float:
        """A finite number above 0."""
        return positive(self.values.get(key), key, self.where)

    def optional(self, key: str) -> float | None:
        """A finite number above 0, or None where there is none."""
        return self.number(key) if key in self else None

    def refuse(self, key: str, what: str) -> None:
        """Raise ModelFilesError where a switch is on that asks for what flexplan does not compute."""
        if self.values.get(key) not in (None, False, 0, [], ()):
            message = (
                f"{self.where}: {key} is {self.values[key]!r}, which asks for {what}: flexplan does not compute it"
            )
            raise ModelFilesError("FP516", message, fix="use a model without it")

    def activation(self, key: str) -> str:
        """The name of an activation function."""
        value = self.values.get(key)
        value = _SAME_ACTIVATIONS.get(value, value) if isinstance(value, str) else value
        if value not in _ACTIVATIONS:
            raise self.wrong(key, f"one of {', '.join(_ACTIVATIONS)}")
        return str(value)

    def ids(self, key: str) -> tuple[int, ...]:
        """Token ids; those that the vocabulary does not have never come up, and some checkpoints write -1 for none."""
        return read_ids(self.values.get(key), key, self.where, self.count("vocab_size"))

    def one_id(self, key: str) -> int | None:
        """One token id, the first if there are several."""
        return next(iter(self.ids(key)), None)

    def dtype(self) -> Dtype:
        """In which the model computes unless another is asked for; float16 where none is given."""
        value = self.given.get("dtype") or self.given.get("torch_dtype") or "float16"
        name = str(value).removeprefix("torch.")
        for known in _DTYPE_BYTES:
            if _DTYPE_ALIASES.get(name, name) == known:
                return known
        allowed = ", ".join(_DTYPE_BYTES)
        fix = f"use a checkpoint in {allowed}, or name one of these as its dtype"
        raise ModelFilesError("FP503", f"{self.where}: dtype is {value!r}", fix=fix)

    def bytes_per_element(self) -> int:
        """Bytes of one stored weight."""
        return _DTYPE_BYTES[self.dtype()]

    def heads(self) -> tuple[int, int, int]:
        """Query heads, KV heads and the width of a head."""
        hidden, heads = self.count("hidden_size"), self.count("num_attention_heads")
        kv_heads = self.count("num_key_value_heads") if "num_key_value_heads" in self else heads
        if heads % kv_heads:
            raise self.uneven("num_attention_heads", heads, "num_key_value_heads", kv_heads)
        # transformers' Llama insists on this even where head_dim is given
        if hidden % heads and (self.family == "llama" or "head_dim" not in self):
            raise self.uneven("hidden_size", hidden, "num_attention_heads", heads)
        return heads, kv_heads, self.count("head_dim") if "head_dim" in self else hidden // heads

    def windows(self, *, slides: bool, always: bool = False, pattern: int = 1) -> tuple[tuple[int, ...], int | None]:
        """How many of the newest tokens each layer reads, 0 for all, and the longest sequence that is read whole.

        ``slides``: the mathematics of the family has windows.  That of others has none, but transformers' cache forgets
        what is behind them, so longer sequences would depend on where the prompt ends; with a window in chunks, too.
        ``always``: layers slide whatever their types are.  Without types every ``pattern``-th one reads all, with 1
        none.
        """
        sizes: dict[str, int | None] = {_SLIDING: self._size("sliding_window"), _CHUNKED: None}
        if "use_sliding_window" not in self.values:
            sizes[_CHUNKED] = self._size("attention_chunk_size")
        elif not self.flag("use_sliding_window"):
            sizes[_SLIDING] = None
        kinds = self._layer_kinds(sizes, pattern)
        for kind in {*kinds} - {_FULL}:
            if sizes.get(kind) is None:
                raise self.wrong("layer_types", "full_attention only, as sliding_window or use_sliding_window say")
        if slides:
            windows = tuple(sizes[_SLIDING] or 0 if always or kind == _SLIDING else 0 for kind in kinds)
            return windows, sizes[_CHUNKED] if _CHUNKED in kinds else None
        return (), min((n for kind, n in sizes.items() if n is not None and kind in kinds), default=None)

    def refuse_windows(self, positions: int) -> None:
        """The error where layers of a family that has no windows read less than all positions."""
        _, window = self.windows(slides=False)
        if window is not None and window < positions:
            message = f"{self.where}: layers read {window} of {positions} positions, supported are models that read all"
            raise ModelFilesError("FP504", message, fix="remove sliding_window, attention_chunk_size and layer_types")

    def _size(self, key: str) -> int | None:
        return self.count(key) if key in self else None

    def _layer_kinds(self, sizes: Mapping[str, int | None], pattern: int) -> list[str]:
        """The kind of attention of every layer, as written or as transformers takes it from the other keys."""
        layers, given = self.count("num_hidden_layers", MOST_LAYERS), self.values.get("layer_types")
        if given is None:
            default = next((kind for kind, n in sizes.items() if n is not None), _FULL)
            first = self.whole("max_window_layers") if "max_window_layers" in self.values else 0
            full = [i < first or (pattern > 1 and (i + 1) % pattern == 0) for i in range(layers)]
            return [_FULL if reads_all else default for reads_all in full]
        known = {"attention": _FULL, _FULL: _FULL, **{kind: kind for kind in sizes}}
        if not isinstance(given, list) or len(given) != layers or not all(isinstance(k, str) for k in given):
            raise self.wrong("layer_types", f"a list of {layers}, as many as num_hidden_layers")
        if not known.keys() >= set(given):
            raise self.wrong("layer_types", "a list of full_attention and sliding_attention")
        return [known[kind] for kind in given]

    def whole(self, key: str) -> int:
        """A whole number from 0."""
        value = self.values.get(key)
        if type(value) is not int or not 0 <= value <= MOST:
            raise self.wrong(key, f"a whole number from 0 to {MOST}")
        return value

    def uneven(self, whole: str, size: int, part: str, by: int) -> ModelFilesError:
        """The error for sizes that do not divide."""
        message = f"{self.where}: {whole} {size} is not a multiple of {part} {by}"
        return ModelFilesError("FP506", message, fix=f"correct {whole} or {part}")

    def shape(self, name: str, **others: Any) -> ModelShape:
        """The sizes that all families call alike, and what a family has beside or instead of them."""
        names = ("num_heads", "num_kv_heads", "head_dim")
        heads = {} if "num_heads" in others else dict(zip(names, self.heads(), strict=True))
        sizes = {
            "num_layers": self.count("num_hidden_layers", MOST_LAYERS),
            "hidden_size": self.count("hidden_size"),
            "vocab_size": self.count("vocab_size"),
            "embed_size": self.count("hidden_size"),
            "tied_embeddings": self.flag("tie_word_embeddings"),
            "bytes_per_element": self.bytes_per_element(),
        }
        return ModelShape(name=name, family=self.family, **{**heads, **sizes, **others})

    def math(self, shape: ModelShape, **constants: Any) -> ModelConstants:
        """The constants of a family beside those that all have."""
        return ModelConstants(
            dtype=self.dtype(),
            causal=self.flag("is_causal"),
            bos_token_id=self.one_id("bos_token_id"),
            eos_token_ids=self.ids("eos_token_id"),
            pad_token_id=self.one_id("pad_token_id"),
            **{"attention_scale": shape.head_dim**-0.5, **constants},
        )


def positive(value: Any, key: str, where: str) -> float:
    """A finite number above 0, or the error."""
    if type(value) in (int, float) and 0 < value < 1e300:
        return float(value)
    message = f"{where}: {key} is {value!r}, allowed is a finite number above 0"
    raise ModelFilesError("FP503", message, fix=f"correct {key}")
