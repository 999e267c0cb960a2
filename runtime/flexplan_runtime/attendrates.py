"""How fast the host attends in a running model: alone, and beside weights on the link.

A kernel by itself, over and over, finds its threads awake and its memory warm: it is up to twice as fast as in a
model.  So this is measured where it happens, on a few layers of an ordinary size.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from flexplan.cache_placement import vector_bytes
from flexplan.catalog import read_model
from flexplan.policy import Policy
from flexplan.shapes import ModelShape
from flexplan.timeline import Span, Timeline
from flexplan_runtime.env import ExecutionEnv
from flexplan_runtime.lm import OffloadedLM
from flexplan_runtime.opening import DUMMY
from flexplan_runtime.timing import Figure

LAYERS = {"num_layers": 6, "vocab_size": 512, "max_positions": 1024}
PROMPT_LEN, NEW = 512, 6
ALONE = Policy(32, 2, cache_gpu_percent=0.0, cache_cpu_percent=100.0, cpu_cache_compute=True)
PACKED = replace(ALONE, compress_cache=True)
BESIDE = Policy(32, 2, 0.0, 100.0, 0.0, 100.0, cpu_cache_compute=True)
_FIRST = 2  # the token from which on everything is warm


def attention_rates(env: ExecutionEnv, dtype: torch.dtype, host_task_s: float) -> dict[str, Figure]:
    """Bytes a second: of attention alone, packed or not, and of host memory to it and to copies together."""
    shape, math = read_model("facebook/opt-6.7b")
    model = (shape.model_copy(update=LAYERS).with_dtype(dtype.itemsize), math)
    alone = _attended(_decoded(env, model, ALONE, dtype), model[0], host_task_s)
    packed = _attended(_decoded(env, model, PACKED, dtype), model[0], host_task_s, PACKED)
    timeline = _decoded(env, model, BESIDE, dtype)
    beside, copied = _attended(timeline, model[0], host_task_s), _copied(timeline, model[0])
    both = Figure(beside.value + copied, beside.spread_percent)
    return {
        "host_attention_bytes_per_s": alone,
        "host_attention_packed_bytes_per_s": packed,
        "host_bytes_per_s": max(alone, both, key=lambda figure: figure.value),
    }


def _decoded(env: ExecutionEnv, model: object, policy: Policy, dtype: torch.dtype) -> Timeline:
    """The timeline of a second, warm run."""
    with OffloadedLM(model, env, DUMMY, policy, dtype=dtype) as lm:  # type: ignore[arg-type]
        prompts = [[(7 * n + t) % 500 + 4 for t in range(PROMPT_LEN)] for n in range(policy.block_size)]
        lm.complete(prompts, 3)
        return lm.complete(prompts, NEW).timelines[0]


def _attends(timeline: Timeline) -> list[Span]:
    return [s for s in timeline.spans if s.name.startswith("attend@") and s.i >= _FIRST]


def _attended(timeline: Timeline, shape: ModelShape, host_task_s: float, policy: Policy = ALONE) -> Figure:
    """Bytes a second of one task, what each costs however small it is apart."""
    element = shape.bytes_per_element
    token_bytes = policy.gpu_batch_size * shape.num_kv_heads * 2
    token_bytes *= vector_bytes(shape.head_dim, element, policy.cache_packing(element))
    spans = _attends(timeline)
    return Figure.of([token_bytes * (PROMPT_LEN + s.i) / max(1e-6, s.end_s - s.start_s - host_task_s) for s in spans])


def _copied(timeline: Timeline, shape: ModelShape) -> float:
    """Bytes a second of weights that arrive while attention runs."""
    attends = _attends(timeline)
    loads = [s for s in timeline.spans if s.name.startswith("load_weight@") and s.i >= _FIRST]
    layer_bytes = (4 * shape.hidden_size + 2 * shape.ffn_size) * shape.hidden_size * shape.bytes_per_element
    passes = len({s.i for s in loads})
    rate = passes * shape.num_layers * layer_bytes / max(1e-9, sum(s.end_s - s.start_s for s in loads))
    together = sum(max(0.0, min(a.end_s, b.end_s) - max(a.start_s, b.start_s)) for a in attends for b in loads)
    return rate * together / max(1e-9, sum(s.end_s - s.start_s for s in attends))
