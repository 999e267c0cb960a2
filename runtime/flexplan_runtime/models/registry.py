"""The families by name; each is imported when first asked for."""

from __future__ import annotations

from importlib import import_module

from flexplan.errors import ModelFilesError
from flexplan.model import ModelConstants, ModelShape
from flexplan_runtime.models.base import Family

_DECODER = "decoder:Decoder"
_FAMILIES = {
    "opt": _DECODER,
    "llama": _DECODER,
    "mistral": _DECODER,
    "mixtral": "mixture:Mixture",
    "qwen2": _DECODER,
    "qwen3": _DECODER,
    "gemma": "gemma:Gemma",
    "gemma2": "gemma:Gemma",
    "gemma3_text": "gemma:Gemma",
    "granite": _DECODER,
    "olmo2": _DECODER,
    "phi3": _DECODER,
    "starcoder2": _DECODER,
    "gpt_neox": _DECODER,
    "gpt2": _DECODER,
    "bloom": _DECODER,
    "falcon": _DECODER,
    "deepseek_v2": "latent:Latent",
    "deepseek_v3": "latent:Latent",
    "qwen3_moe": "mixture:Mixture",
    "glm4_moe": "mixture:Mixture",
    "gpt_oss": "gpt_oss:GptOss",
}


def family_class(name: str) -> type[Family]:
    """The class of the family `name`, else ModelFilesError."""
    if name not in _FAMILIES:
        raise ModelFilesError(
            "FP512",
            f"model family {name!r} cannot be run; known are {', '.join(_FAMILIES)}",
            fix="use a model of one of these families",
        )
    module, _, attribute = _FAMILIES[name].partition(":")
    found: type[Family] = getattr(import_module(f"flexplan_runtime.models.{module}"), attribute)
    return found


def family(shape: ModelShape, math: ModelConstants) -> Family:
    """The layer maths of a model."""
    return family_class(shape.family)(shape, math)
