"""Rates of a running model: attention on the host, alone and beside weights on the link, and a host's products."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flexplan.cost import layer_work, prompt_attention_work
from flexplan.graph import Span, Timeline
from flexplan.model import ModelShape
from flexplan.placement import vector_bytes
from flexplan.policy import Policy
from flexplan_runtime.measure.timing import LEAST_S, Figure
from flexplan_runtime.measure.trial_models import FAMILIES, NEW, PROMPT_LEN, RESIDENT, TrialModels, layer_bytes

ALONE = Policy(64, 2, cache_gpu_percent=0.0, cache_cpu_percent=100.0, cpu_cache_compute=True)
FEW = replace(ALONE, gpu_batch_size=8)
PACKED = replace(ALONE, compress_cache=True)
# keys and values of two such batches take attention as long as a layer's weights take the link: neither waits
BESIDE = replace(ALONE, gpu_batch_size=28, w_gpu_percent=0.0, w_cpu_percent=100.0)
_FIRST = 2  # the token from which on everything is warm
_MEDIUM = {"hidden_size": 768, "embed_size": 768, "num_heads": 12, "num_kv_heads": 12, "head_dim": 64}
_MEDIUM |= {"ffn_size": 2048, "num_layers": 6}
_PROMPTS = 5  # runs of a prompt


def attention_rates(trials: TrialModels) -> dict[str, Figure]:
    """Bytes a second of attention, packed or not, and of host memory to it and to copies together.

    And the seconds of a task that reads nothing: the line through a small and a large batch gives both.
    """
    model = trials.model(FAMILIES[0], num_layers=6)  # wide: few layers hold many keys and values
    shape = model[0]
    many, few, packed = (_seconds(trials.decoded(model, policy)) for policy in (ALONE, FEW, PACKED))
    slope = (many.value - few.value) / (_bytes(shape, ALONE) - _bytes(shape, FEW))
    start_s = max(LEAST_S, few.value - slope * _bytes(shape, FEW))

    def rate(took: Figure, policy: Policy) -> Figure:
        return Figure(_bytes(shape, policy) / max(1e-6, took.value - start_s), took.spread_percent)

    timeline = trials.decoded(model, BESIDE)
    alone, beside = rate(many, ALONE), rate(_seconds(timeline), BESIDE)
    both = Figure(beside.value + _copied(shape, timeline), beside.spread_percent)
    return {
        "host_task_s": Figure(start_s, few.spread_percent),
        "host_attention_bytes_per_s": alone,
        "host_attention_packed_bytes_per_s": rate(packed, PACKED),
        "host_bytes_per_s": max(alone, both, key=lambda figure: figure.value),
    }


def product_rate(trials: TrialModels, found: Mapping[str, Figure]) -> dict[str, Figure]:
    """Products a second in the layers of a prompt, given what else a layer does; for a host, whose library's speed
    on matrices alone says little of it.
    """
    model = trials.model(FAMILIES[1], **_MEDIUM)
    shape, rows = model[0], RESIDENT.gpu_batch_size
    took = Figure.of([timeline.prefill_s for timeline in trials.timelines(model, RESIDENT, 2, _PROMPTS)])
    layer = layer_work(shape, rows * PROMPT_LEN).plus(prompt_attention_work(shape, rows, PROMPT_LEN))
    other_s = layer.gpu_bytes / found["gpu_bytes_per_s"].value
    other_s += layer.gpu_matrix_bytes / found["gpu_matrix_bytes_per_s"].value
    other_s += layer.gpu_between_bytes / found["gpu_between_bytes_per_s"].value
    other_s += found["kernel_s"].value
    other_s += layer.products * found["product_s"].value + layer.kernels * found["launch_s"].value
    layer_s = took.value / shape.num_layers
    return {"gpu_flops_per_s": Figure(layer.gpu_flops / max(layer_s / 2, layer_s - other_s), took.spread_percent)}


def _bytes(shape: ModelShape, policy: Policy) -> float:
    """Keys and values that one task attends over, about halfway through."""
    element = shape.bytes_per_element
    pair = 2 * vector_bytes(shape.head_dim, element, policy.cache_packing(element))
    return policy.gpu_batch_size * shape.num_kv_heads * pair * (PROMPT_LEN + (_FIRST + NEW) / 2)


def _copied(shape: ModelShape, timeline: Timeline) -> float:
    """Bytes a second of weights that arrive while attention runs."""
    attends, loads = _spans(timeline, "attend@"), _spans(timeline, "load_weight@")
    nbytes = len({s.i for s in loads}) * shape.num_layers * layer_bytes(shape)
    rate = nbytes / max(1e-9, sum(s.end_s - s.start_s for s in loads))
    together = sum(max(0.0, min(a.end_s, b.end_s) - max(a.start_s, b.start_s)) for a in attends for b in loads)
    return rate * together / max(1e-9, sum(s.end_s - s.start_s for s in attends))


def _spans(timeline: Timeline, kind: str) -> list[Span]:
    return [s for s in timeline.spans if s.name.startswith(kind) and s.i >= _FIRST]


def _seconds(timeline: Timeline) -> Figure:
    """Of one attention task."""
    return Figure.of([s.end_s - s.start_s for s in _spans(timeline, "attend@")])
