"""The layer mathematics of each family.

activations  Activation functions by their Hugging Face names.
base         `Family`: five functions of weights and activations.
llama        Llama, Mistral, SmolLM, Qwen2, Qwen3.
mixtral      Llama with a mixture of experts.
opt          OPT and Galactica.
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
