"""Weights: found, checked, and loaded to their places.

checkpoint    A checkpoint, checked whole, then read by rows into the caller's memory.
codes         Rows of a quantised checkpoint, brought into the order that is kept on the tiers.
download      A model's directory by its name, downloaded once where there is none.
dummy         Random weights for benchmarks.
files         Where each tensor's bytes are in safetensors and `.npy` files.
gguf          GGUF files, converted once into a model directory.
load          Every weight straight to its place, several layers at a time.
open          A model's shape, mathematics and weights, and what this runtime refuses.
packed        Rows of weights packed where they are stored, unpacked where a layer computes.
packed_cache  Packed weights kept on disk, checksummed, for later openings.
"""

from flexplan_runtime.weights.download import resolve_model
from flexplan_runtime.weights.load import load_weights
from flexplan_runtime.weights.open import DUMMY, Config, OpenedModel, dtype_of, open_model, refuse_other_model
from flexplan_runtime.weights.packed import read_packed, unpack
from flexplan_runtime.weights.packed_cache import PackedFiles

__all__ = [
    "DUMMY",
    "Config",
    "OpenedModel",
    "PackedFiles",
    "dtype_of",
    "load_weights",
    "open_model",
    "read_packed",
    "refuse_other_model",
    "resolve_model",
    "unpack",
]
