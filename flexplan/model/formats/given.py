"""`Given`: a `quantization_config` of which every key is honoured, or refused by its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flexplan.errors import ModelFilesError
from flexplan.limits import shown

FORMATS = "FP8 (fp8, compressed-tensors), MXFP4, GPTQ and AWQ in 4 bits, compressed-tensors W4A16 and W8A16"
UNPACKED = f"use the checkpoint in float16 or bfloat16, or in one of these formats: {FORMATS}"
MOST_GROUP = 1 << 20
_MOST_PATTERNS = 1 << 17


class Given:
    """The keys of a `quantization_config` or of a part of it; `scale` is the dtype that its scales are stored in."""

    def __init__(self, values: Mapping[str, Any], where: str, scale: str) -> None:
        self.values, self.where, self.scale = values, where, scale
        self.seen: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, which is thereby honoured."""
        self.seen.add(key)
        value = self.values.get(key)
        return default if value is None else value

    def one_of(self, key: str, allowed: Iterable[Any], default: Any = None) -> Any:
        """The value of a key, one of these."""
        value, allowed = self.get(key, default), tuple(allowed)
        if not any(type(value) is type(a) and value == a for a in allowed):
            raise self.refuse(key, value, " or ".join(map(_spelt, allowed)))
        return value

    def group(self, key: str, default: int) -> int:
        """Columns that share a scale, 0 for all: written -1."""
        value = self.get(key, default)
        if type(value) is not int or not (value == -1 or 0 < value <= MOST_GROUP):
            raise self.refuse(key, value, f"-1 or 1 to {MOST_GROUP}")
        return max(value, 0)

    def names(self, key: str) -> tuple[str, ...]:
        """Names of modules, or patterns of them."""
        value = self.get(key, [])
        if not isinstance(value, list) or len(value) > _MOST_PATTERNS or not all(isinstance(n, str) for n in value):
            raise self.refuse(key, value, "a list of names")
        return tuple(value)

    def part(self, key: str, values: Any) -> Given:
        """A part of it, an object."""
        if not isinstance(values, Mapping):
            raise self.refuse(key, values, "an object")
        return Given(values, f"{self.where}: {key}", self.scale)

    def ignore(self, *keys: str) -> None:
        """Keys that say how the codes were found, or what another system computes with: nothing that changes x."""
        self.seen.update(keys)

    def close(self) -> None:
        """Refuse the first key that nobody asked for, unless it says nothing."""
        for key, value in self.values.items():
            if key not in self.seen and value not in (None, False, [], {}):
                raise self.refuse(key, value, "nothing: it is not honoured")

    def refuse(self, key: str, value: Any, allowed: str) -> ModelFilesError:
        """The error for a value that is not honoured."""
        message = f"{self.where}: quantization_config {key:.80} is {shown(value)}, allowed is {allowed}"
        return ModelFilesError("FP510", message, fix=UNPACKED)


def _spelt(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value}"
