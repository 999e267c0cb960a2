"""A `quantization_config` read into a `StoredFormat`; what cannot be honoured is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flexplan.errors import ModelFilesError
from flexplan.model.coding import StoredFormat
from flexplan.model.formats.compressed import read_compressed
from flexplan.model.formats.given import UNPACKED, Given
from flexplan.model.formats.integers import read_awq, read_gptq
from flexplan.model.formats.small import read_fp8, read_mxfp4

PACKED_BESIDE = "hf_quant_config.json"
_KEYS = ("quantization_config", "compression_config")
_OTHERS = {"quantization": "MLX", PACKED_BESIDE: "modelopt"}
_METHODS: Mapping[str, Callable[[Given], StoredFormat]] = {
    "awq": read_awq,
    "compressed-tensors": read_compressed,
    "fp8": read_fp8,
    "gptq": read_gptq,
    "mxfp4": read_mxfp4,
}
_IGNORED = ("modules_to_not_convert", "ignored_layers", "ignore")  # one thing, three names
_SCALES = {"fp8": "float32"}  # where no header says it; the others' are of the model's own dtype


def read_format(
    config: Mapping[str, Any], where: str, element: str, scale: str | None = None
) -> tuple[StoredFormat, tuple[str, ...]] | None:
    """How a config says that the weights are stored, and the modules that are not; None where it says nothing.

    `element` is the model's dtype, `scale` that of the scales in its files, None where there are none.
    """
    key = next((key for key in (*_KEYS, *_OTHERS) if config.get(key) is not None), None)
    if key is None:
        return None
    values = config[key]
    method = values.get("quant_method") if isinstance(values, Mapping) else None
    read = _METHODS.get(method) if isinstance(method, str) and key in _KEYS else None
    if read is None or not isinstance(values, Mapping):
        raise _unknown(where, key, method)
    given = Given(values, where, scale or _SCALES.get(str(method), element))
    given.ignore("quant_method")
    given.one_of("dequantize", (False,), False)
    found = read(given)
    kept = tuple(name for key in _IGNORED for name in given.names(key))
    given.close()
    return found, kept


def _unknown(where: str, key: str, method: object) -> ModelFilesError:
    """By what the weights are packed, as far as it is said."""
    name = method if isinstance(method, str) else _OTHERS.get(key)
    by = f", by {name:.40}" if name else ""
    message = f"{where}: {key!r} says that the weights are packed already{by}, which is not read"
    return ModelFilesError("FP504", message, fix=UNPACKED)
