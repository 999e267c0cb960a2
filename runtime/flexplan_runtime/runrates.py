"""What tasks take in a running model: attention on the host, alone and beside weights on the link, and gpu steps.

A kernel by itself, over and over, finds its threads awake and its memory warm: it is up to twice as fast as in a
model.  So these are measured where they happen, on a few layers of an ordinary size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from flexplan.cache_placement import vector_bytes
from flexplan.catalog import read_model
from flexplan.cost import embed_work, gpu_attention_work, head_work, layer_work, prompt_attention_work
from flexplan.graph import Work
from flexplan.modelmath import ModelMath
from flexplan.policy import Policy
from flexplan.shapes import ModelShape
from flexplan.tensors import weight_tensors
from flexplan.timeline import Span, Timeline
from flexplan_runtime.env import ExecutionEnv
from flexplan_runtime.lm import OffloadedLM
from flexplan_runtime.opening import DUMMY
from flexplan_runtime.timing import Figure

SMALL = {"vocab_size": 512, "max_positions": 1024}
FAMILIES = ("facebook/opt-6.7b", "meta-llama/Llama-2-7b-hf")
MEDIUM = {"hidden_size": 768, "embed_size": 768, "num_heads": 12, "num_kv_heads": 12, "head_dim": 64, "ffn_size": 2048}
MEDIUM |= {"num_layers": 6}
NARROW = {"hidden_size": 64, "embed_size": 64, "num_heads": 4, "num_kv_heads": 4, "head_dim": 16, "ffn_size": 64}
PROMPT_LEN, NEW = 512, 6
PROMPTS = 5  # runs of a prompt
ALONE = Policy(64, 2, cache_gpu_percent=0.0, cache_cpu_percent=100.0, cpu_cache_compute=True)
FEW = replace(ALONE, gpu_batch_size=8)
PACKED = replace(ALONE, compress_cache=True)
# keys and values of two such batches take attention as long as a layer's weights take the link: neither waits
BESIDE = replace(ALONE, gpu_batch_size=28, w_gpu_percent=0.0, w_cpu_percent=100.0)
RESIDENT, RESIDENT_NEW = Policy(2, 1, sep_layer=False), 40
SPLIT = replace(RESIDENT, sep_layer=True)
_FIRST = 2  # the token from which on everything is warm
_CAPTURED = 4  # the token by which every step is replayed
Model = tuple[ModelShape, ModelMath]


@dataclass(frozen=True)
class _Beside:
    """Seconds of a layer, and of a pass's first and last task together."""

    layer: Figure
    ends: Figure


class RunningRates:
    """Measures models of one dtype in one environment."""

    def __init__(self, env: ExecutionEnv, dtype: torch.dtype) -> None:
        self.env = env
        self.dtype = dtype
        self.model = self._model("facebook/opt-6.7b", num_layers=6)  # wide: few layers hold many keys and values
        self.shape = self.model[0]

    def attention(self) -> dict[str, Figure]:
        """Bytes a second of attention, packed or not, and of host memory to it and to copies together.

        And the seconds of a task that reads nothing: the line through a small and a large batch gives both.
        """
        many, few = (_seconds(self._decoded(policy)) for policy in (ALONE, FEW))
        slope = (many.value - few.value) / (self._bytes(ALONE) - self._bytes(FEW))
        start_s = max(0.0, few.value - slope * self._bytes(FEW))
        alone, packed = self._rate(many, ALONE, start_s), self._rate(_seconds(self._decoded(PACKED)), PACKED, start_s)
        timeline = self._decoded(BESIDE)
        beside = self._rate(_seconds(timeline), BESIDE, start_s)
        both = Figure(beside.value + self._copied(timeline), beside.spread_percent)
        return {
            "host_task_s": Figure(start_s, few.spread_percent),
            "host_attention_bytes_per_s": alone,
            "host_attention_packed_bytes_per_s": packed,
            "host_bytes_per_s": max(alone, both, key=lambda figure: figure.value),
        }

    def steps(self, gpu_bytes_per_s: float) -> dict[str, Figure]:
        """Fixed seconds of decoding: of a task, of each of its products and other kernels, and of choosing the tokens.

        Three models tell them apart: one, the same with its layers split in two tasks, and a family whose layers launch
        more kernels.  What reading their weights takes is not counted.
        """
        few, many = (self._model(name, **self._deep()) for name in FAMILIES)
        whole, split = self._beside(few, RESIDENT, gpu_bytes_per_s), self._beside(few, SPLIT, gpu_bytes_per_s)
        more = self._beside(many, RESIDENT, gpu_bytes_per_s)
        layer = _layer(few[0])
        task_s = max(1e-6, split.layer.value - whole.layer.value)
        launch_s = max(1e-9, (more.layer.value - whole.layer.value) / (_layer(many[0]).kernels - layer.kernels))
        product_s = max(1e-9, (whole.layer.value - task_s - layer.kernels * launch_s) / layer.products)
        ends = embed_work(few[0], RESIDENT.gpu_batch_size).plus(head_work(few[0], RESIDENT.gpu_batch_size))
        known_s = 2 * task_s + ends.products * product_s + ends.kernels * launch_s
        return {
            "kernel_s": Figure(task_s, split.layer.spread_percent),
            "product_s": Figure(product_s, whole.layer.spread_percent),
            "launch_s": Figure(launch_s, more.layer.spread_percent),
            "sample_s": Figure(max(1e-9, whole.ends.value - known_s), whole.ends.spread_percent),
        }

    def prompts(self, found: Mapping[str, Figure]) -> dict[str, Figure]:
        """Products a second in the layers of a prompt, given what else a layer does; for a host, whose library's speed
        on matrices alone says little of it.
        """
        model = self._model(FAMILIES[1], **MEDIUM)
        shape, rows = model[0], RESIDENT.gpu_batch_size
        took = Figure.of([timeline.prefill_s for timeline in self._timelines(RESIDENT, 2, model, PROMPTS)])
        layer = layer_work(shape, rows * PROMPT_LEN).plus(prompt_attention_work(shape, rows, PROMPT_LEN))
        other_s = layer.gpu_bytes / found["gpu_bytes_per_s"].value
        other_s += layer.gpu_matrix_bytes / found["gpu_matrix_bytes_per_s"].value
        other_s += layer.gpu_between_bytes / found["gpu_between_bytes_per_s"].value
        other_s += found["kernel_s"].value
        other_s += layer.products * found["product_s"].value + layer.kernels * found["launch_s"].value
        layer_s = took.value / shape.num_layers
        return {"gpu_flops_per_s": Figure(layer.gpu_flops / max(layer_s / 2, layer_s - other_s), took.spread_percent)}

    def _deep(self) -> dict[str, int]:
        """Deep, so that what a pass costs is shared by many layers; on the host as small as can be."""
        return ({"num_layers": 8} | NARROW) if self.env.device.type == "cpu" else {"num_layers": 12}

    def _beside(self, model: Model, policy: Policy, gpu_bytes_per_s: float) -> _Beside:
        """What decoding takes beside reading the weights of its layers."""
        shape, timeline = model[0], self._decoded(policy, RESIDENT_NEW, model)
        spans = [s for s in timeline.spans if s.name.startswith("compute@") and s.i > _CAPTURED]
        starts_s = [s.start_s for s in sorted(spans, key=lambda s: s.start_s)]
        took_s = [after - before for before, after in pairwise(starts_s)]  # until the next one begins
        tasks = (2 if policy.sep_layer else 1) * shape.num_layers + 2
        passes = [took_s[n : n + tasks] for n in range(0, len(took_s) - tasks + 1, tasks)]
        split, floor_s = tasks - 2 > shape.num_layers, _layer_bytes(shape) / gpu_bytes_per_s
        layers = [
            sum(took[n : n + (2 if split else 1)]) for took in passes for n in range(1, tasks - 1, 2 if split else 1)
        ]
        return _Beside(
            Figure.of([max(1e-6, seconds - floor_s) for seconds in layers]),
            Figure.of([took[0] + took[-1] for took in passes]),
        )

    def _model(self, name: str, **update: int) -> Model:
        shape, math = read_model(name)
        return shape.model_copy(update=SMALL | update).with_dtype(self.dtype.itemsize), math

    def _decoded(self, policy: Policy, new: int = NEW, model: Model | None = None) -> Timeline:
        """The timeline of a second, warm run."""
        return self._timelines(policy, new, model or self.model, 1)[0]

    def _timelines(self, policy: Policy, new: int, model: Model, times: int) -> list[Timeline]:
        """Of several runs, after one that warms up."""
        with OffloadedLM(model, self.env, DUMMY, policy, dtype=self.dtype) as lm:
            prompts = [[(7 * n + t) % 500 + 4 for t in range(PROMPT_LEN)] for n in range(policy.block_size)]
            return [lm.complete(prompts, new).timelines[0] for _ in range(1 + times)][1:]

    def _bytes(self, policy: Policy) -> float:
        """Keys and values that one task attends over, about halfway through."""
        element = self.shape.bytes_per_element
        pair = 2 * vector_bytes(self.shape.head_dim, element, policy.cache_packing(element))
        return policy.gpu_batch_size * self.shape.num_kv_heads * pair * (PROMPT_LEN + (_FIRST + NEW) / 2)

    def _rate(self, took: Figure, policy: Policy, start_s: float) -> Figure:
        """Bytes a second of one task, what each costs however small it is apart."""
        return Figure(self._bytes(policy) / max(1e-6, took.value - start_s), took.spread_percent)

    def _copied(self, timeline: Timeline) -> float:
        """Bytes a second of weights that arrive while attention runs."""
        attends, loads = _spans(timeline, "attend@"), _spans(timeline, "load_weight@")
        nbytes = len({s.i for s in loads}) * self.shape.num_layers * _layer_bytes(self.shape)
        rate = nbytes / max(1e-9, sum(s.end_s - s.start_s for s in loads))
        together = sum(max(0.0, min(a.end_s, b.end_s) - max(a.start_s, b.start_s)) for a in attends for b in loads)
        return rate * together / max(1e-9, sum(s.end_s - s.start_s for s in attends))


def _layer(s: ModelShape) -> Work:
    """Decoding one sequence."""
    return layer_work(s, 1).plus(gpu_attention_work(s, 1, 1, 1))


def _layer_bytes(s: ModelShape) -> int:
    return sum(t.nbytes for t in weight_tensors(s) if t.layer == 0)


def _spans(timeline: Timeline, kind: str) -> list[Span]:
    return [s for s in timeline.spans if s.name.startswith(kind) and s.i >= _FIRST]


def _seconds(timeline: Timeline) -> Figure:
    """Of one attention task."""
    return Figure.of([s.end_s - s.start_s for s in _spans(timeline, "attend@")])
