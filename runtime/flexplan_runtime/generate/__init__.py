"""From prompts to tokens: the model as a library offers it.

lm         `OffloadedLM`: places the weights, generates block after block.
prompts    Prompts and outputs in the shapes that transformers uses.
tokenizer  Text to token ids and back.
"""

from flexplan_runtime.generate.lm import Generation, OffloadedLM
from flexplan_runtime.generate.prompts import refuse_bad_prompts, refuse_broken
from flexplan_runtime.generate.tokenizer import Tokenizer

__all__ = [
    "Generation",
    "OffloadedLM",
    "Tokenizer",
    "refuse_bad_prompts",
    "refuse_broken",
]
