"""What a linear program cannot decide by itself: the switches, set one way for each program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from math import ceil
from typing import Any, Literal

from flexplan.model import ModelShape, Packing, layer_tensors, schedule_layers, weight_tensors
from flexplan.model.tensors import expert_of
from flexplan.placement import awaited, bytes_unpacked, lookahead, splits, unpacked_slots, vector_bytes
from flexplan.policy import Policy
from flexplan.problem import Problem
from flexplan_planners.lp.rows import ACT, CACHE, WEIGHTS

CacheHome = Literal["gpu", "host", "stream"]
DiskUse = Literal["none", "weights", "all"]


@dataclass(frozen=True)
class Switches:
    """``weights_stay``, ``cache == "gpu"`` and ``act_stays`` say that all of it is at home on the gpu: nothing moves.

    The cache off the gpu is attended over on the host, or streamed; ``disk`` says what may have a share there.
    """

    shape: ModelShape
    sep_layer: bool
    weights_stay: bool
    cache: CacheHome
    act_stays: bool
    disk: DiskUse
    pin_weight: bool = True
    experts_on_demand: bool = False
    compress_weight: bool = False
    compress_cache: bool = False
    attn_sparsity: float = 1.0

    @cached_property
    def absent(self) -> frozenset[str]:
        """The shares that are 0."""
        stays = {WEIGHTS: self.weights_stay, CACHE: self.cache == "gpu", ACT: self.act_stays}
        gone = {name for names, at_home in stays.items() if at_home for name in names[1:]}
        kept: dict[DiskUse, set[str]] = {"none": set(), "weights": {WEIGHTS[2]}, "all": {names[2] for names in stays}}
        dense_only = {CACHE[2]} if self.attn_sparsity < 1 else set()
        return frozenset(gone | dense_only | ({names[2] for names in stays} - kept[self.disk]))

    @property
    def fields(self) -> dict[str, Any]:
        """The policy fields."""
        return {
            "overlap": True,
            "sep_layer": self.sep_layer,
            "pin_weight": self.pin_weight,
            "cpu_cache_compute": self.cache == "host",
            "compress_weight": self.compress_weight,
            "compress_cache": self.compress_cache,
            "attn_sparsity": self.attn_sparsity,
            "experts_on_demand": self.experts_on_demand,
        }

    @property
    def cache_on_disk(self) -> bool:
        """True where some of the cache may be there."""
        return self.disk == "all" and CACHE[2] not in self.absent

    @cached_property
    def policy(self) -> Policy:
        """A policy of these switches, to ask the placement's rules of; of its shares only the cache's mean anything."""
        home = 100.0 if self.cache == "gpu" else 0.0
        return Policy(cache_gpu_percent=home, cache_cpu_percent=100.0 - home, **self.fields)

    @property
    def splits_steps(self) -> bool:
        """True where steps are split in two."""
        return self.policy.splits_steps

    @property
    def chooses(self) -> bool:
        """True where steps are split around a choice: keys are streamed, and chosen values after them."""
        return self.cache == "stream" and self.splits_steps

    @cached_property
    def weight_packing(self) -> Packing | None:
        """How weights are packed: 4 bits in groups of 64."""
        return self.policy.weight_packing(self.shape.bytes_per_element)

    @cached_property
    def cache_packing(self) -> Packing | None:
        """The same of keys and values."""
        return self.policy.cache_packing(self.shape.bytes_per_element)

    @cached_property
    def pair_bytes(self) -> int:
        """Key and value of one token, layer, sequence and KV head."""
        return self.shape.vectors_kept * vector_bytes(
            self.shape.head_dim, self.shape.bytes_per_element, self.cache_packing
        )

    @property
    def weight_slots(self) -> int:
        """Layers of streamed weights on the gpu at a time: one that computes, and those on their way."""
        return lookahead(self.policy) + 1

    @cached_property
    def layer_bytes(self) -> tuple[int, ...]:
        """Weight bytes of the layers of the schedule; a token table of its own is not among them."""
        return _layer_bytes(self.shape, self.sep_layer, self.weight_packing)

    @cached_property
    def unpacked_bytes(self) -> tuple[int, ...]:
        """Bytes of the layers unpacked, 0 for those that are not packed."""
        return _unpacked_bytes(self.shape, self.sep_layer, self.weight_packing)

    @property
    def unpacked_slots(self) -> int:
        """Unpacked layers on the gpu at a time."""
        return unpacked_slots(self.policy)

    @property
    def num_layers(self) -> int:
        return len(self.layer_bytes)

    @cached_property
    def largest_layer(self) -> int:
        """Bytes of a slot of the ring of weights, were all of them streamed."""
        return ceil(max(self.layer_bytes) * self._late)

    @cached_property
    def num_streamed_layers(self) -> int:
        if self.experts_on_demand:
            return self.shape.num_layers - self.shape.dense_layers
        return sum(1 for nbytes in self.layer_bytes if nbytes)

    @cached_property
    def streamed_bytes(self) -> int:
        """What one pass computes with; where experts wait for the rest to be on the gpu, as if they were all of it."""
        if not self.experts_on_demand:
            return sum(self.layer_bytes)
        tensors = weight_tensors(self.shape, self.weight_packing)
        return int(sum(t.nbytes for t in tensors if expert_of(t.name) is not None) * self._late)

    @cached_property
    def _late(self) -> float:
        """How much larger a share of what comes last is off the gpu than of all weights, at the most."""
        if not self.experts_on_demand:
            return 1.0
        tensors = weight_tensors(self.shape, self.weight_packing)
        return sum(t.nbytes for t in tensors) / sum(t.nbytes for t in tensors if awaited(t))


def every_setting(
    problem: Problem,
    host_attention: Sequence[bool],
    sep_layer: Sequence[bool],
    pin_weight: Sequence[bool],
    lossy: Mapping[str, Any] | None = None,
    experts_on_demand: Sequence[bool] = (False,),
) -> Iterator[Switches]:
    """All settings, without those that another one covers."""
    caches: list[CacheHome] = ["gpu", *(("host",) if True in host_attention else ())]
    if False in host_attention:
        caches.append("stream")
    uses: tuple[DiskUse, ...] = ("none", "weights", "all") if problem.hardware.disk_bytes else ("none",)
    both, sep_layer = (True, False), splits(problem.model, sep_layer)
    exact, lossy = {"compress_weight": False, "compress_cache": False, "attn_sparsity": 1.0}, lossy or {}
    tokens = [(value, lossy[field]) if field in lossy else (value,) for field, value in exact.items()]
    on_demand = experts_on_demand if problem.model.num_experts else (False,)
    settings = product(sep_layer, both, caches, both, uses, pin_weight, on_demand, *tokens)
    for sep, stay, home, act, disk, pin, demand, *how in settings:
        idle_disk = (disk == "weights" and stay) or (disk == "all" and act and (home == "gpu" or how[2] < 1))
        idle_switch = stay and (sep != sep_layer[0] or pin != pin_weight[0])
        unfit = (problem.model.sinks or problem.model.latent) and how[2] < 1
        unfit = unfit or (demand and (stay or not sep or not pin))
        if not idle_disk and not idle_switch and not unfit:
            yield Switches(problem.model, sep, stay, home, act, disk, pin, demand, *how)


@cache
def _layer_bytes(shape: ModelShape, sep_layer: bool, packing: Packing | None) -> tuple[int, ...]:
    layers = (layer_tensors(shape, layer, packing) for layer in schedule_layers(shape, sep_layer))
    return tuple(sum(t.nbytes for t in tensors) for tensors in layers)


@cache
def _unpacked_bytes(shape: ModelShape, sep_layer: bool, packing: Packing | None) -> tuple[int, ...]:
    layers = (layer_tensors(shape, layer, packing) for layer in schedule_layers(shape, sep_layer))
    return tuple(bytes_unpacked(tensors) for tensors in layers)
