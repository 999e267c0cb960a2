"""The fixed seconds of decoding: of a task, of each of its products and other kernels, of choosing the tokens.

Three models tell them apart: one, the same with its layers split in two tasks, and a family whose layers launch more
kernels.  What reading their weights takes is not counted.  Copies and requests are those of a model so small that
they move next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from flexplan.cost import embed_work, gpu_attention_work, head_work, layer_work
from flexplan.graph import CPU, D2H, DISK_READ, DISK_WRITE, H2D_CACHE, H2D_SMALL, H2D_WEIGHTS, Work
from flexplan.model import ModelShape
from flexplan.policy import Policy
from flexplan_runtime.measure.timing import LEAST_S, Figure
from flexplan_runtime.measure.trial_models import FAMILIES, RESIDENT, Model, TrialModels, layer_bytes

_SPLIT = replace(RESIDENT, sep_layer=True)
_NEW = 40
_CAPTURED = 4  # the token by which every step is replayed
_LAYERS = {"num_layers": 12}
# on the host as small as can be: what its products take is measured elsewhere
_NARROW = {"hidden_size": 64, "embed_size": 64, "num_heads": 4, "num_kv_heads": 4, "head_dim": 16, "ffn_size": 64}
_TINY = _NARROW | {"num_layers": 4}
_NARROW |= {"num_layers": 8}
# everywhere at once, and streamed from where it lives
_STREAMED = Policy(
    2,
    2,
    w_gpu_percent=34,
    w_cpu_percent=33,
    cache_gpu_percent=34,
    cache_cpu_percent=33,
    act_gpu_percent=0,
    act_cpu_percent=50,
)
_SPREAD = replace(_STREAMED, cpu_cache_compute=True, pin_weight=False)


@dataclass(frozen=True)
class PassSeconds:
    """Seconds of one of its layers, and of its first and last task together."""

    layer: Figure
    ends: Figure


def step_costs(trials: TrialModels, gpu_bytes_per_s: float) -> dict[str, Figure]:
    """``kernel_s``, ``product_s``, ``launch_s`` and ``sample_s`` of a Hardware."""
    size = _NARROW if trials.env.device.type == "cpu" else _LAYERS
    few, many = (trials.model(name, **size) for name in FAMILIES)
    whole, split = (measured(trials, few, policy, gpu_bytes_per_s) for policy in (RESIDENT, _SPLIT))
    more = measured(trials, many, RESIDENT, gpu_bytes_per_s)
    layer = _layer(few[0])
    task_s = max(1e-6, split.layer.value - whole.layer.value)
    launch_s = max(LEAST_S, (more.layer.value - whole.layer.value) / (_layer(many[0]).kernels - layer.kernels))
    product_s = max(LEAST_S, (whole.layer.value - task_s - layer.kernels * launch_s) / layer.products)
    ends = embed_work(few[0], RESIDENT.gpu_batch_size).plus(head_work(few[0], RESIDENT.gpu_batch_size))
    sample_s = whole.ends.value - 2 * task_s - ends.products * product_s - ends.kernels * launch_s
    return {
        "kernel_s": Figure(task_s, split.layer.spread_percent),
        "product_s": Figure(product_s, whole.layer.spread_percent),
        "launch_s": Figure(launch_s, more.layer.spread_percent),
        "sample_s": Figure(max(LEAST_S, sample_s), whole.ends.spread_percent),
    }


def task_costs(trials: TrialModels) -> dict[str, Figure]:
    """``disk_request_s`` and, of a host that computes by itself, ``copy_s`` and ``host_task_s``."""
    model = trials.model("facebook/opt-125m", **_TINY)
    timelines = [t for policy in (_SPREAD, _STREAMED) for t in trials.timelines(model, policy, 12, 1, prompt_len=4)]

    def median(*lanes: str) -> Figure:
        took_s = [s.end_s - s.start_s for t in timelines for s in t.spans if s.lane in lanes and s.i > 0]
        return Figure.of([max(LEAST_S, seconds) for seconds in took_s])

    found = {"disk_request_s": median(DISK_READ, DISK_WRITE)}
    if trials.env.device.type == "cpu":  # on a device they are measured in a larger model, beside what else they meet
        found |= {"copy_s": median(H2D_WEIGHTS, H2D_CACHE, H2D_SMALL, D2H), "host_task_s": median(CPU)}
    return found


def measured(trials: TrialModels, model: Model, policy: Policy, gpu_bytes_per_s: float) -> PassSeconds:
    """A decoding pass beside reading the weights of its layers."""
    timeline = trials.decoded(model, policy, _NEW)
    starts_s = sorted(s.start_s for s in timeline.spans if s.name.startswith("compute@") and s.i > _CAPTURED)
    took_s = [after - before for before, after in pairwise(starts_s)]  # a task lasts until the next one begins
    parts, num_layers = (2 if policy.sep_layer else 1), model[0].num_layers
    tasks, floor_s = parts * num_layers + 2, layer_bytes(model[0]) / gpu_bytes_per_s
    passes = [took_s[n : n + tasks] for n in range(0, len(took_s) - tasks + 1, tasks)]
    layers_s = [sum(took[n : n + parts]) - floor_s for took in passes for n in range(1, tasks - 1, parts)]
    ends_s = [took[0] + took[-1] for took in passes]
    return PassSeconds(Figure.of([max(1e-6, seconds) for seconds in layers_s]), Figure.of(ends_s))


def _layer(s: ModelShape) -> Work:
    """Decoding one sequence."""
    return layer_work(s, 1).plus(gpu_attention_work(s, 1, 1, 1))
