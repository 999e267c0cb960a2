"""The families by `model_type`: transformers' defaults of their keys, who reads them, what their tensors are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from flexplan.model.constants import ModelConstants
from flexplan.model.families import deepseek, gemma, glm, gpt_oss, granite, llama, olmo, phi, starcoder
from flexplan.model.families.keys import names
from flexplan.model.families.keys.fields import Fields
from flexplan.model.families.keys.names import Names
from flexplan.model.families.older import bloom, falcon, gpt2, neox, opt
from flexplan.model.shape import ModelShape

Reader = Callable[[Fields, str], tuple[ModelShape, ModelConstants]]

_FAMILIES: dict[str, tuple[Mapping[str, Any], Reader, Names]] = {
    "opt": (opt.DEFAULTS, opt.read_opt, opt.NAMES),
    "llama": (llama.LLAMA, llama.read_llama, names.LLAMA),
    "mistral": (llama.MISTRAL, llama.read_mistral, names.LLAMA),
    "mixtral": (llama.MIXTRAL, llama.read_mixtral, names.MIXTRAL),
    "qwen2": (llama.QWEN2, llama.read_qwen2, names.LLAMA),
    "qwen3": (llama.QWEN3, llama.read_qwen3, names.LLAMA),
    "gemma": (gemma.GEMMA, gemma.read_gemma, names.LLAMA),
    "gemma2": (gemma.GEMMA2, gemma.read_gemma2, gemma.NAMES),
    "gemma3_text": (gemma.GEMMA3, gemma.read_gemma3, gemma.NAMES),
    "granite": (granite.GRANITE, granite.read_granite, names.LLAMA),
    "olmo2": (olmo.OLMO2, olmo.read_olmo2, olmo.NAMES),
    "qwen3_moe": (llama.QWEN3_MOE, llama.read_qwen3_moe, names.QWEN_EXPERTS),
    "glm4_moe": (glm.GLM4_MOE, glm.read_glm4_moe, names.GLM_EXPERTS),
    "gpt_oss": (gpt_oss.GPT_OSS, gpt_oss.read_gpt_oss, names.GPT_OSS),
    "phi3": (phi.PHI3, phi.read_phi3, phi.NAMES),
    "starcoder2": (starcoder.STARCODER2, starcoder.read_starcoder2, starcoder.NAMES),
    "gpt_neox": (neox.GPT_NEOX, neox.read_gpt_neox, neox.NAMES),
    "deepseek_v2": (deepseek.DEEPSEEK_V2, deepseek.read_deepseek_v2, deepseek.NAMES),
    "deepseek_v3": (deepseek.DEEPSEEK_V3, deepseek.read_deepseek_v3, deepseek.NAMES),
    "gpt2": (gpt2.GPT2, gpt2.read_gpt2, gpt2.NAMES),
    "bloom": (bloom.BLOOM, bloom.read_bloom, bloom.NAMES),
    "falcon": (falcon.FALCON, falcon.read_falcon, falcon.NAMES),
}
# how the width of the feed-forward is called, and other keys that have names of their own
_FFN = {"opt": "ffn_dim", "gpt2": "n_inner", "bloom": "", "falcon": "ffn_hidden_size"}
_ALSO = {"gpt2": gpt2.ALSO, "bloom": bloom.ALSO, "falcon": falcon.ALSO}
# types that their makers gave to models of a family, with whose they say they may be replaced
SAME_FAMILY = {"kimi_k2": "deepseek_v3"}
# where transformers honours `is_causal`, and flexplan was compared with it
_SEE_LATER_TOKENS = ("opt", "llama", "mistral", "mixtral", "qwen2", "qwen3")
# transformers' default of every optional key that a family reads
FAMILIES: Mapping[str, Mapping[str, Any]] = MappingProxyType({name: keys for name, (keys, _, _) in _FAMILIES.items()})


def fields_of(config: Mapping[str, Any], family: str, where: str) -> Fields:
    """The keys of a model of a known family, each to be taken by its type."""
    ffn, also = _FFN.get(family, "intermediate_size"), _ALSO.get(family, {})
    return Fields(config, family, where, _FAMILIES[family][0], ffn, also)


def read_family(f: Fields, name: str) -> tuple[ModelShape, ModelConstants]:
    """Sizes and constants of a model; ModelFilesError names what is wrong with the file."""
    if not f.flag("is_causal") and f.family not in _SEE_LATER_TOKENS:
        raise f.wrong("is_causal", f"true, or a model of these types: {', '.join(_SEE_LATER_TOKENS)}")
    return _FAMILIES[f.family][1](f, name)


def names_of(family: str) -> Names:
    """What a family calls its tensors in a checkpoint."""
    return _FAMILIES[family][2]
