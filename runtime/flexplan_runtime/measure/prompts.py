"""Rates of prompts in running models: of their products, and of what runs between those.

A layer by itself, once, finds the device cool and its clock high, and so does a prompt of a tenth of a second: on an
H200 products in such bursts run at 738 TFLOP/s, and without a pause, as in long prompts, at 660, where the power limit
holds the clock (`benchmarks/products_slow_down.py`).  So prompts are run for a while, each straight after a second of
other products.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flexplan.cost import layer_work, prompt_attention_work
from flexplan.graph import Timeline, Work
from flexplan.model import ModelShape
from flexplan.policy import Policy
from flexplan_runtime.measure.timing import Figure
from flexplan_runtime.measure.trial_models import FAMILIES, PROMPT_LEN, RESIDENT, TrialModels

_MEDIUM = {"hidden_size": 768, "embed_size": 768, "num_heads": 12, "num_kv_heads": 12, "head_dim": 64}
_MEDIUM |= {"ffn_size": 2048, "num_layers": 6}
_PROMPTS = 5  # runs of a prompt
_MANY = replace(RESIDENT, gpu_batch_size=64)
_LAYERS = 4


def product_rate(trials: TrialModels, found: Mapping[str, Figure]) -> dict[str, Figure]:
    """Products a second in the layers of a prompt, given what else a layer does; for a host, whose library's speed
    on matrices alone says little of it.
    """
    model = trials.model(FAMILIES[1], **_MEDIUM)
    shape = model[0]
    took = Figure.of([timeline.prefill_s for timeline in trials.timelines(model, RESIDENT, 2, _PROMPTS)])
    layer = _layer(shape, RESIDENT)
    other_s = layer.gpu_bytes / found["gpu_bytes_per_s"].value
    other_s += layer.gpu_matrix_bytes / found["gpu_matrix_bytes_per_s"].value
    other_s += layer.gpu_between_bytes / found["gpu_between_bytes_per_s"].value
    other_s += _fixed_s(layer, found)
    layer_s = took.value / shape.num_layers
    return {"gpu_flops_per_s": Figure(layer.gpu_flops / max(layer_s / 2, layer_s - other_s), took.spread_percent)}


def prompt_rates(trials: TrialModels, found: Mapping[str, Figure], runs: int) -> dict[str, Figure]:
    """Operations a second of products, and bytes a second of what runs between them, on a device; of ``runs`` of each
    prompt the later half counts.

    Two families do as many operations, one moving twice as many bytes between them: two lines cross in both rates.
    """
    seconds, layers = list[Figure](), list[Work]()
    for name in FAMILIES:
        model = trials.model(name, num_layers=_LAYERS)
        timelines = trials.timelines(model, _MANY, 2, runs, hot=True)[runs // 2 :]
        took = Figure.of([s for timeline in timelines for s in _layer_seconds(timeline)])
        layers.append(_layer(model[0], _MANY))
        seconds.append(Figure(took.value - _fixed_s(layers[-1], found), took.spread_percent))
    (few, more), few_s, more_s = layers, seconds[0].value, seconds[1].value
    determinant = few.gpu_flops * more.gpu_between_bytes - more.gpu_flops * few.gpu_between_bytes
    between = (few.gpu_flops * more_s - more.gpu_flops * few_s) / determinant  # seconds a byte
    fastest = 1 / found["gpu_bytes_per_s"].value  # nothing between products is quicker than reading
    between = min(max(between, fastest), more_s / 2 / more.gpu_between_bytes)
    flops = (few.gpu_flops + more.gpu_flops) / sum(
        took_s - between * layer.gpu_between_bytes for took_s, layer in zip((few_s, more_s), layers, strict=True)
    )
    spread = max(figure.spread_percent for figure in seconds)
    return {"gpu_flops_per_s": Figure(flops, spread), "gpu_between_bytes_per_s": Figure(1 / between, spread)}


def _layer(s: ModelShape, policy: Policy) -> Work:
    """A layer of a prompt."""
    rows = policy.gpu_batch_size
    return layer_work(s, rows * PROMPT_LEN).plus(prompt_attention_work(s, rows, PROMPT_LEN))


def _fixed_s(layer: Work, found: Mapping[str, Figure]) -> float:
    launched = layer.products * found["product_s"].value + layer.kernels * found["launch_s"].value
    return found["kernel_s"].value + launched


def _layer_seconds(timeline: Timeline) -> list[float]:
    """Of each layer of a prompt; the first and the last task are the embedding's and the head's."""
    spans = sorted((s for s in timeline.spans if s.name.startswith("compute@") and s.i == 0), key=lambda s: s.start_s)
    return [s.end_s - s.start_s for s in spans[1:-1]]
