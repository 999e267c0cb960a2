"""Attention on the host as it is in a running model: beside weights on the link, of one query a KV head and of several.

All in the dtype of models that have groups, and with micro-batches enough that the host never waits: a task after a
rest is quicker than one of many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from flexplan.graph import Span, Timeline
from flexplan.model import ModelShape
from flexplan.placement import vector_bytes
from flexplan.policy import Policy
from flexplan_runtime.measure.timing import LEAST_S, Figure
from flexplan_runtime.measure.trial_models import FAMILIES, NEW, PROMPT_LEN, Model, TrialModels, layer_bytes

ALONE = Policy(40, 3, cache_gpu_percent=0.0, cache_cpu_percent=100.0, cpu_cache_compute=True)
FEW = replace(ALONE, gpu_batch_size=8)
PACKED = replace(ALONE, compress_cache=True)
# a layer's weights take the link a little more than half as long as attention takes the host
BESIDE = replace(ALONE, w_gpu_percent=0.0, w_cpu_percent=100.0)
_GROUP = 8  # queries that share a key
_FIRST = 2  # the token from which on everything is warm
_MOST_FLOPS = 1e15  # where further queries cost nothing that can be measured
_LEAST_SHARE = 0.1  # of attention beside copies that says something of both


@dataclass(frozen=True)
class Trial:
    """What a policy took, by the spans of its decoding."""

    shape: ModelShape
    policy: Policy
    timeline: Timeline

    @property
    def attend_s(self) -> Figure:
        """Of one task."""
        return Figure.of([s.end_s - s.start_s for s in self.spans("attend@")])

    @property
    def attended(self) -> float:
        """Bytes of keys and values that one task attends over, about halfway through."""
        element = self.shape.bytes_per_element
        pair = self.shape.vectors_kept * vector_bytes(self.shape.head_dim, element, self.policy.cache_packing(element))
        grains = self.policy.gpu_batch_size * self.shape.num_kv_heads
        return grains * pair * (PROMPT_LEN + (_FIRST + NEW) / 2)

    def spans(self, kind: str) -> list[Span]:
        return [s for s in self.timeline.spans if s.name.startswith(kind) and s.i >= _FIRST]

    def rate(self, start_s: float) -> Figure:
        """Bytes of keys and values a second, beside the fixed time of a task."""
        took = self.attend_s
        return Figure(self.attended / max(1e-6, took.value - start_s), took.spread_percent)

    def loaded(self) -> tuple[float, float, int]:
        """Bytes of weights that came, the seconds it took, and in how many copies."""
        loads = self.spans("load_weight@")
        nbytes = len({s.i for s in loads}) * self.shape.num_layers * layer_bytes(self.shape)
        return nbytes, sum(s.end_s - s.start_s for s in loads), len(loads)

    def overlap(self) -> float:
        """Of the time of attention, the share in which weights came."""
        attends, loads = self.spans("attend@"), self.spans("load_weight@")
        together = sum(max(0.0, min(a.end_s, b.end_s) - max(a.start_s, b.start_s)) for a in attends for b in loads)
        return together / max(1e-9, sum(s.end_s - s.start_s for s in attends))

    def between_s(self) -> float:
        """From the end of one task of attention to the start of the next: their lane's own time."""
        spans = sorted(self.spans("attend@"), key=lambda s: s.start_s)
        return median([max(0.0, after.start_s - before.end_s) for before, after in pairwise(spans)] or [0.0])


def attention_rates(trials: TrialModels, found: Mapping[str, Figure]) -> dict[str, Figure]:
    """Bytes a second of attention, packed or not, and of host memory to it and to copies together; what each further
    query costs; the fixed seconds of a task and, given the link's rates, of copies.

    The line through a small and a large batch tells the fixed seconds of a task from those of its bytes.
    """
    plain = trials.model(FAMILIES[0], num_layers=6)  # wide: few layers hold many keys and values
    heads = trials.model(FAMILIES[1])[0].num_heads
    grouped = trials.model(FAMILIES[1], num_layers=6, num_kv_heads=heads // _GROUP)
    many, few, packed = (_trial(trials, plain, policy) for policy in (ALONE, FEW, PACKED))
    several, beside = (
        _trial(trials, grouped, replace(policy, gpu_batch_size=_GROUP * policy.gpu_batch_size))
        for policy in (ALONE, BESIDE)
    )
    slope = (many.attend_s.value - few.attend_s.value) / (many.attended - few.attended)
    start_s = max(LEAST_S, few.attend_s.value - slope * few.attended)
    rate = many.rate(start_s)
    return {
        "host_task_s": Figure(start_s + many.between_s(), few.attend_s.spread_percent),
        "host_attention_bytes_per_s": rate,
        "host_attention_packed_bytes_per_s": packed.rate(start_s),
        "host_attention_flops_per_s": _further_queries(several, rate, start_s),
        "host_bytes_per_s": _roof(beside, several.rate(start_s), start_s, rate),
        "copy_s": _long_copy(beside, found["link_up_bytes_per_s"].value),
        "small_copy_s": _small_copy(beside, found),
    }


def _trial(trials: TrialModels, model: Model, policy: Policy) -> Trial:
    return Trial(model[0], policy, trials.decoded(model, policy))


def _further_queries(several: Trial, one: Figure, start_s: float) -> Figure:
    """Operations a second that query heads beyond the first of each KV head add."""
    more_s = several.attend_s.value - start_s - several.attended / one.value
    flops = 2.0 * (_GROUP - 1) * several.attended / several.shape.bytes_per_element
    return Figure(flops / max(more_s, flops / _MOST_FLOPS), several.attend_s.spread_percent)


def _roof(beside: Trial, alone: Figure, start_s: float, least: Figure) -> Figure:
    """Bytes a second of attention and of the weights' copies, where both are at it.

    Copies rest now and then, and attention is then as quick as ``alone``: what it took is the mean of both.
    """
    share, mixed = beside.overlap(), beside.rate(start_s)
    together = (1 / mixed.value - (1 - share) / alone.value) / max(share, _LEAST_SHARE)  # seconds a byte
    nbytes, seconds, _ = beside.loaded()
    both = 1 / min(max(together, 1 / alone.value), 2 / mixed.value) + nbytes / max(1e-9, seconds)
    return Figure(max(both, least.value), mixed.spread_percent)


def _long_copy(trial: Trial, bytes_per_s: float) -> Figure:
    nbytes, seconds, count = trial.loaded()
    return Figure(max(LEAST_S, (seconds - nbytes / bytes_per_s) / max(1, count)), 0.0)


def _small_copy(trial: Trial, found: Mapping[str, Figure]) -> Figure:
    """Of queries on their way down and of what attention made of them on its way up, beside the weights."""
    nbytes = trial.policy.gpu_batch_size * trial.shape.q_size * trial.shape.bytes_per_element
    ways = (("send_query@", "link_down_bytes_per_s"), ("load_attention@", "link_up_bytes_per_s"))
    took_s = [s.end_s - s.start_s - nbytes / found[rate].value for kind, rate in ways for s in trial.spans(kind)]
    return Figure.of([max(LEAST_S, seconds) for seconds in took_s or [LEAST_S]])
