"""The layer mathematics of each family.

activations  Activation functions by their Hugging Face names.
base         `Family`: five functions of weights and activations.
decoder      The decoder that the families share.
gemma        Gemma's token rows.
gpt_oss      The gates of gpt-oss.
latent       Latent attention: DeepSeek.
mixture      A decoder with a mixture of experts.
registry     The families by name.
rope         Rotary positions.
"""

from flexplan_runtime.models.base import Family, Pieces
from flexplan_runtime.models.registry import family, family_class

__all__ = [
    "Family",
    "Pieces",
    "family",
    "family_class",
]
