"""What the mathematics takes: of each resource, and in seconds.

rates  What work takes in seconds under a `Hardware`.
work   What a task needs of each resource.
"""

from flexplan.cost.rates import Price, Rates
from flexplan.cost.work import (
    embed_work,
    experts_touched,
    gpu_attention_work,
    head_work,
    layer_work,
    prompt_attention_work,
    window_parts,
)

__all__ = [
    "Price",
    "Rates",
    "embed_work",
    "experts_touched",
    "gpu_attention_work",
    "head_work",
    "layer_work",
    "prompt_attention_work",
    "window_parts",
]
