"""How the `config.json` of each family is read.

fields  The keys of a `config.json` that a family reads, with transformers' defaults, each taken by its type.
opt     OPT's `config.json`.
others  Families that flexplan does not compute, by what the names of their models say.
rope    The rotary frequencies that a `config.json` asks for, and how it stretches them.
rotary  The `config.json` of Llama and those like it: Mistral, Mixtral, Qwen.
"""

from flexplan.model.families.fields import FAMILIES, Fields
from flexplan.model.families.opt import read_opt
from flexplan.model.families.others import why_not
from flexplan.model.families.rotary import read_rotary

__all__ = [
    "FAMILIES",
    "Fields",
    "read_opt",
    "read_rotary",
    "why_not",
]
