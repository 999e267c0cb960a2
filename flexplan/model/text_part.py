"""Models that also see images: of their ``config.json``, the model that reads and writes text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flexplan.errors import ModelFilesError

_WITH_IMAGES = {"gemma3": "gemma3_text", "mistral3": "mistral"}  # to the type of their text model, where none is named
_OUTSIDE = ("quantization_config", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")


def text_part(config: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The ``text_config`` of a model with images, with what stands outside and holds for it; others as they are.

    Given text alone, such a model computes what its text model does: what sees images is not read.

    >>> text_part({"model_type": "gemma3", "text_config": {"hidden_size": 2560}}, "config.json")
    {'model_type': 'gemma3_text', 'hidden_size': 2560}
    """
    given = config.get("model_type")
    if not isinstance(given, str) or given not in _WITH_IMAGES:
        return config
    text = config.get("text_config")
    if not isinstance(text, Mapping):
        message = f"{where}: text_config of a {given} is {type(text).__name__}, not an object with the model of text"
        raise ModelFilesError("FP535", message, fix="download the file again")
    outside = {key: config[key] for key in _OUTSIDE if config.get(key) is not None}
    dtypes = {key: config[key] for key in ("dtype", "torch_dtype") if config.get(key)}
    return {"model_type": _WITH_IMAGES[given]} | dtypes | dict(text) | outside
