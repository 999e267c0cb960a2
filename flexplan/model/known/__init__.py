"""Models known by name: the `config.json` of each, as its maker published it.

first     OPT, Llama, Mistral, Mixtral, Qwen 2 and 3, and what others made of them.
later     Gemma, Phi, OLMo, Granite, and mixtures of many experts, DeepSeek among them.
older     GPT-2, GPT-NeoX and Pythia, Bloom, Falcon, StarCoder2.
series    `Series`: models that differ in size.
"""

from flexplan.model.known.first import MIRRORS, RENAMED, SERIES
from flexplan.model.known.later import LATER
from flexplan.model.known.older import OLDER
from flexplan.model.known.series import FP8_BLOCKS, Config, Series

__all__ = [
    "ALL",
    "FP8_BLOCKS",
    "MIRRORS",
    "RENAMED",
    "Config",
]

ALL: tuple[Series, ...] = (*SERIES, *OLDER, *LATER)
