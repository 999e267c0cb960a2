"""GGUF files: converted once into a model directory of flexplan's cache, as data; nothing in them is run.

codes      GGUF's blocks whose codes are kept: Q8_0 and Q4_0.
config     A GGUF file's metadata as the `config.json` of its family.
convert    A GGUF file into a model directory: whole, or not at all.
file       `GgufFile`: the metadata and tensors of a GGUF file, and what is wrong with one.
tokenizer  The tokenizer that a GGUF file carries, as `tokenizer.json`.
"""

from flexplan_runtime.weights.gguf.convert import converted

__all__ = ["converted"]
