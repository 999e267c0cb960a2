"""How the `config.json` of each family is read: one file a family, of what it has beside or instead of the others.

fields    The keys of a `config.json` that a family reads, with transformers' defaults, each taken by its type.
gemma     Gemma, Gemma 2, Gemma 3.
granite   Granite.
llama     Llama, Mistral, Mixtral, Qwen2, Qwen3.
names     What a family calls its tensors in a checkpoint.
olmo      OLMo 2.
opt       OPT.
others    Families that flexplan does not compute, by what the names of their models say.
phi       Phi-3 and Phi-4.
registry  The families by name.
rope      The rotary frequencies that a `config.json` asks for, and how it stretches them.
rotary    What Llama and those like it share.
"""

from flexplan.model.families.names import Names
from flexplan.model.families.others import why_not
from flexplan.model.families.registry import FAMILIES, fields_of, names_of, read_family

__all__ = [
    "FAMILIES",
    "Names",
    "fields_of",
    "names_of",
    "read_family",
    "why_not",
]
