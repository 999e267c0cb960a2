"""`GgufFile`: the metadata and tensors of a GGUF file, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flexplan.errors import ModelFilesError, UsageError
from flexplan.limits import shown

_REQUIRED = object()


class GgufFile:
    """Metadata by key, those of its architecture without their prefix; tensors by name."""

    def __init__(self, path: Path) -> None:
        try:
            from gguf import GGUFReader  # an extra: few need it
        except ModuleNotFoundError as error:
            fix = "pip install '.[gguf]' in the source directory of flexplan, or pip install gguf"
            raise UsageError("FP138", f"{path}: reading GGUF files needs the package gguf", fix=fix) from error
        self.path = path
        try:
            self._reader = GGUFReader(path)
            self.architecture = str(self._reader.fields["general.architecture"].contents())
        except Exception as error:  # the package's own parser fails in whatever way the bytes lead it
            message = f"{path}: is no GGUF file that can be read: {str(error)[:200] or type(error).__name__}"
            raise ModelFilesError("FP542", message, fix="download the file again") from error
        self.tensors = {tensor.name: tensor for tensor in self._reader.tensors}

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        """A value, ``attention.head_count`` being the architecture's; FP543 where it is missing and has no default."""
        full = key if key.startswith(("general.", "tokenizer.", "split.")) else f"{self.architecture}.{key}"
        found = self._reader.fields.get(full)
        if found is not None:
            return found.contents()
        if default is _REQUIRED:
            raise self.refuse(f"has no {full}", "convert the model to GGUF anew")
        return default

    def count(self, key: str, default: Any = _REQUIRED) -> Any:
        """A whole number that all layers share."""
        value = self.get(key, default)
        if value is not default and (isinstance(value, bool) or not isinstance(value, int)):
            raise self.refuse(f"{key} is {shown(value)}, allowed is one whole number", "use a model of equal layers")
        return value

    def numbers(self, name: str) -> np.ndarray[Any, Any]:
        """A tensor in float32, its rows outputs."""
        from gguf.quants import dequantize

        tensor = self.tensors[name]
        return np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)  # the file's own is read-only

    def refuse(self, what: str, fix: str) -> ModelFilesError:
        """The error for what cannot be converted."""
        return ModelFilesError("FP543", f"{self.path}: {what}", fix=fix)
