"""How the `config.json` of each family is read: one file a family, of what it has beside or instead of the others.

deepseek  DeepSeek-V2, V3, R1 and Kimi K2.
gemma     Gemma, Gemma 2, Gemma 3.
glm       The mixtures of GLM-4.5 and later.
gpt_oss   gpt-oss.
granite   Granite.
llama     Llama, Mistral, Mixtral, Qwen2, Qwen3, with and without experts.
olmo      OLMo 2.
others    Families that flexplan does not compute, by what the names of their models say.
phi       Phi-3 and Phi-4.
registry  The families by name.
starcoder  StarCoder2.
"""

from flexplan.model.families.keys.names import Names
from flexplan.model.families.others import why_not
from flexplan.model.families.registry import FAMILIES, SAME_FAMILY, fields_of, names_of, read_family

__all__ = [
    "FAMILIES",
    "SAME_FAMILY",
    "Names",
    "fields_of",
    "names_of",
    "read_family",
    "why_not",
]
