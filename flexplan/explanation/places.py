"""Where weights and cache of a plan live, layer by layer, and what fills each tier."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flexplan.graph import TIERS, tier_of
from flexplan.model import EMBED, HEAD, Layer, schedule_layers
from flexplan.placement import Layout, Placement
from flexplan.plan import Plan
from flexplan.policy import BlockKind, block_kinds, fill_block, rolling_block
from flexplan.problem import Workload
from flexplan.sandbox import schedule_of
from flexplan.schedule import rolls

Bytes = tuple[int, int, int]  # on (gpu, cpu, disk)


class LayerPlace(NamedTuple):
    """One layer's bytes of weights and of the whole block's KV cache, by tier."""

    name: str
    weights: Bytes
    cache: Bytes


class TierUse(NamedTuple):
    """What fills a tier, in bytes: the cache's from the start, though it fills token by token."""

    weights: int
    cache: int
    buffers: int


def heaviest_block(plan: Plan) -> BlockKind:
    """The block that takes longest."""
    blocks = block_kinds(plan.problem.workload, plan.policy.gpu_batch_size, plan.policy.num_gpu_batches)
    return max(blocks, key=lambda kind: (len(kind.lens), kind.load))


def heaviest_placement(plan: Plan) -> Placement:
    """Where everything of that block lives, or of the seats of a rolling job."""
    schedule = schedule_of(plan.schedule)
    if rolls(schedule):
        block = rolling_block(plan.problem.workload, plan.policy)
        return Placement.of(plan.problem.model, plan.policy, block)
    kind = heaviest_block(plan)
    part = plan.problem.model_copy(update={"workload": Workload(prompt_lens=kind.lens, gen_len=kind.gen_len)})
    live = schedule.build(part, plan.policy).live
    block = fill_block(0, kind.lens, kind.gen_len, plan.policy.gpu_batch_size)
    return Placement.of(plan.problem.model, plan.policy, block, live)


def layer_places(placement: Placement) -> list[LayerPlace]:
    """Every layer in the order of a pass; a token table that is gathered is the last."""
    layers = schedule_layers(placement.shape, placement.policy.sep_layer)
    found = []
    for weights in placement.weights:
        layer = layers[weights.j] if weights.j < len(layers) else None
        cache = placement.cache[layer.depth] if layer and layer.attends else ()
        in_cache = {tier: sum(segment.payload(tier) for segment in cache) for tier in TIERS}
        found.append(LayerPlace(_name(layer), _bytes(weights.payload), _bytes(in_cache.__getitem__)))
    return found


def _name(layer: Layer | None) -> str:
    if layer is None:
        return "token table"
    return layer.role if layer.role in (EMBED, HEAD) else f"{layer.role} {layer.depth}"


def _bytes(of_tier: Callable[[str], int]) -> Bytes:
    gpu, cpu, disk = map(of_tier, TIERS)
    return gpu, cpu, disk


def tier_use(placement: Placement) -> dict[str, TierUse]:
    """What fills each tier; the three add up to the bytes of the layout."""
    layout, found = Layout.of(placement), {tier: [0, 0, 0] for tier in TIERS}
    for buffer in layout.buffers.values():
        kind = 0 if buffer.name in ("weights_gpu", "weights_cpu", "weights_disk") else 1
        if not kind or buffer.name in ("cache_gpu", "cache_cpu", "cache_disk"):
            found[tier_of(buffer.arena)][kind] += sum(buffer.sizes)
    for tier, nbytes in layout.tier_bytes().items():
        found[tier][2] = nbytes - sum(found[tier])
    return {tier: TierUse(*parts) for tier, parts in found.items()}
