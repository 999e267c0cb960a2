"""Layout: the buffers of a placement, one behind the other in the arenas of the tiers.

The same bytes size the runtime's arenas and the planner's memory, so a plan's peak is the runtime's.

Arenas by tier: gpu.weights, gpu.work, gpu.workspace (what kernels allocate by themselves);
host.weights, pageable.weights, host.work on the cpu tier; disk.weights, disk.work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import lcm

from flexplan.graph import TIERS, Buffer, tier_of
from flexplan.model import ModelShape
from flexplan.placement.cache import Segment
from flexplan.placement.placement import ID_BYTES, PROB_BYTES, Placement
from flexplan.placement.weights import DISK_ALIGN
from flexplan.placement.workspace import captured_bytes, door_workspace_bytes, mask_bytes, workspace_bytes
from flexplan.policy import Block, Policy
from flexplan.units import round_up

BUFFER_ALIGN = 4096
PASSES_IN_FLIGHT = 3  # of a rolling schedule: two in the lanes, and the one whose tokens are taken
_WHOLE_PAGES = frozenset(("disk.weights", "disk.work", "host.weights"))  # direct I/O; a layer is page-locked by itself


@dataclass(frozen=True)
class Layout:
    """Where every byte of a placement lies; buffers that would be empty are left out."""

    placement: Placement
    buffers: Mapping[str, Buffer]
    round: int  # turns after which every ring is back at its first slot

    @classmethod
    def of(cls, placement: Placement) -> Layout:
        """The layout of a placement; equal placements share it."""
        return _layout(placement.shape, placement.policy, placement.block, placement.live)

    def turns(self, count: int) -> int:
        """What a pass of ``count`` turns counts for: after so many, every ring is back at its first slot."""
        return round_up(count, self.round)

    @cached_property
    def arena_bytes(self) -> Mapping[str, int]:
        """Bytes of each arena."""
        sizes: dict[str, int] = {"gpu.workspace": _workspace_bytes(self.placement) + self.captured_bytes}
        for b in self.buffers.values():
            end = max(o + s for o, s in zip(b.offsets, b.sizes, strict=True))
            sizes[b.arena] = max(sizes.get(b.arena, 0), round_up(end, BUFFER_ALIGN))
        return sizes

    @cached_property
    def captured_bytes(self) -> int:
        """The part of gpu.workspace that captured steps keep for themselves."""
        p = self.placement
        rows, longest = _widest(p)
        # a step that leaves its choice to another task is never captured
        sparsity = 1.0 if p.chooses else p.policy.attn_sparsity
        return captured_bytes(p.shape, rows, longest + p.block.gen_len, sparsity)

    def tier_bytes(self) -> dict[str, int]:
        """Peak bytes of each tier."""
        sizes = dict.fromkeys(TIERS, 0)
        for arena, nbytes in self.arena_bytes.items():
            sizes[tier_of(arena)] += nbytes
        return sizes


@lru_cache(maxsize=16)  # as placements: a plan is predicted, held against its budgets and checked by the same one
def _layout(shape: ModelShape, policy: Policy, block: Block, live: int) -> Layout:
    placement, arenas = Placement.of(shape, policy, block, live), _Arenas()
    for add in (_add_weights, _add_cache, _add_hidden, _add_attention, _add_experts, _add_tokens):
        add(arenas, placement)
    return Layout(placement, arenas.buffers, arenas.round)


class _Arenas:
    """Puts buffers one behind the other in their arenas."""

    def __init__(self) -> None:
        self.buffers: dict[str, Buffer] = {}
        self.ends: dict[str, int] = {}
        self.round = 1  # turns after which every ring is back at its first slot

    def add(self, name: str, arena: str, sizes: Sequence[int]) -> None:
        """One slot a size; nothing where all are empty."""
        if not any(sizes):
            return
        offsets, end = [], self.ends.get(arena, 0)
        for size in sizes:
            offsets.append(end)
            end = round_up(end + size, BUFFER_ALIGN if arena in _WHOLE_PAGES else 256)
        self.ends[arena] = round_up(end, BUFFER_ALIGN)
        self.buffers[name] = Buffer(name, arena, tuple(offsets), tuple(sizes))

    def ring(self, name: str, arena: str, slots: int, size: int) -> None:
        """``slots`` equal slots."""
        self.round = lcm(self.round, slots)
        self.add(name, arena, [round_up(size, DISK_ALIGN)] * slots if size else [])


def _add_weights(arenas: _Arenas, p: Placement) -> None:
    streamed = p.weights[: len(p.layers)]
    cpu_arena = "host.weights" if p.policy.pin_weight else "pageable.weights"
    arenas.add("weights_gpu", "gpu.weights", [w.part_bytes["gpu"] for w in p.weights])
    arenas.add("weights_cpu", cpu_arena, [w.part_bytes["cpu"] for w in p.weights])
    arenas.add("weights_disk", "disk.weights", [w.part_bytes["disk"] for w in p.weights])
    arenas.ring("weight_ring", "gpu.work", p.lookahead + 1, max(w.blob_bytes for w in streamed))
    arenas.ring("weights_unpacked", "gpu.work", p.unpacked_slots, max(w.unpacked_bytes for w in p.weights))
    slots = 2 if p.policy.overlap else 1
    arenas.ring("weight_relay", "host.work", slots, max(w.part_bytes["disk"] for w in streamed))
    if not p.policy.pin_weight:
        arenas.ring("weight_stage", "host.work", slots, max(w.part_bytes["cpu"] for w in streamed))


def _add_cache(arenas: _Arenas, p: Placement) -> None:
    segments = [s for row in p.cache for s in row]
    homes: dict[int, list[Segment]] = {}
    for s in segments:
        slot = (s.k * p.shape.num_layers + s.depth) % (p.live * p.shape.num_layers)
        homes.setdefault(slot, []).append(s)
    for tier, arena in (("gpu", "gpu.work"), ("cpu", "host.work"), ("disk", "disk.work")):
        sizes = [max(s.resident_bytes(tier) for s in homes[slot]) for slot in sorted(homes)]
        arenas.add(f"cache_{tier}", arena, sizes)
    slots = 2 if p.policy.overlap else 1
    streamed = (s.streamed * s.capacity * s.vector_bytes for s in segments)
    arenas.ring("cache_ring", "gpu.work", slots, max(streamed) * p.streamed_parts)
    arenas.ring("cache_relay", "host.work", slots, max(s.resident_bytes("disk") for s in segments))
    kept = [1 if p.rolls else _prompt_kept(p, s) for s in segments]
    arenas.ring(
        "fresh", "gpu.work", slots, max(s.off_gpu * n * s.pair_bytes for s, n in zip(segments, kept, strict=True))
    )
    if p.rolls:  # apart from the others, which else would wait until a prompt has left the gpu
        arenas.ring("fresh_prefill", "gpu.work", slots, max(_newcomers_bytes(p, s) for s in segments))
    arenas.ring("cache_out", "host.work", slots, max(_prompt_kept(p, s) * s.disk_row_bytes for s in segments))


def _newcomers_bytes(p: Placement, s: Segment) -> int:
    """New keys and values that leave the gpu, and are kept, of whatever newcomers come in at a door."""
    kept = min(p.block.door_tokens * p.shape.num_kv_heads, s.num_grains * s.capacity)
    return kept * s.pair_bytes if s.off_gpu else 0


def _prompt_kept(p: Placement, s: Segment) -> int:
    """Tokens of a prompt that a cache keeps."""
    return min(p.new_tokens(0, s.k), s.capacity)


def _add_hidden(arenas: _Arenas, p: Placement) -> None:
    ks = range(len(p.block.batches))
    sizes = {i: max(p.hidden_bytes(i, k) for k in ks) for i in (0, 1)}
    slots = {0: 3, 1: p.live + 2 if p.policy.splits_steps else 3}
    at_home = {0: p.block.doors or p.live, 1: p.live}
    for i, phase in enumerate(("prefill", "decode")):
        arenas.ring(f"hidden_{phase}", "gpu.work", at_home[i] if p.hidden_stays else slots[i], sizes[i])
    if p.hidden_stays:
        return
    parts = [max(p.hidden_parts(i, k)[n] for i in (0, 1) for k in ks) for n in range(3)]  # rounding may favour either
    arenas.ring("hidden_gpu", "gpu.work", p.live, parts[0])
    arenas.ring("hidden_cpu", "host.work", p.live, parts[1])
    arenas.ring("hidden_relay", "host.work", 4, parts[2])
    arenas.ring("hidden_disk", "disk.work", p.live, parts[2])


def _add_attention(arenas: _Arenas, p: Placement) -> None:
    """What the two halves of a step leave to each other."""
    element, group = p.shape.bytes_per_element, p.shape.group_size * p.shape.head_dim
    hosted = max(s.hosted for row in p.cache for s in row) * group * element
    if not hosted and not p.chooses:
        return
    rows = max(batch.num_rows for batch in p.block.batches)
    arenas.ring("attention", "gpu.work", p.live + 1, rows * p.shape.q_size * element)
    if hosted:
        arenas.ring("queries", "gpu.work", 2, hosted)
        arenas.ring("queries_host", "host.work", p.live + 1, hosted)
        arenas.ring("attention_host", "host.work", p.live + 1, hosted)
    else:
        last = p.block.gen_len - 1
        values = max(s.streamed * p.chosen(last, s) for row in p.cache for s in row)
        arenas.ring("choices", "gpu.work", p.live + 1, values * ID_BYTES)
        arenas.ring("probs", "gpu.work", p.live + 1, values * p.shape.group_size * PROB_BYTES)
        arenas.ring("values", "gpu.work", 2 if p.policy.overlap else 1, values * p.cache[0][0].vector_bytes)


def _add_experts(arenas: _Arenas, p: Placement) -> None:
    """What routers leave to experts that are sent once they are chosen."""
    if any(p.on_demand(1, layer) for layer in p.layers):
        k = max(range(len(p.block.batches)), key=p.rows)
        arenas.ring("routes", "gpu.work", 1, p.chosen_bytes(k) + p.gates_bytes(k))
        arenas.ring("routes_host", "host.work", 1, p.chosen_bytes(k))


def _add_tokens(arenas: _Arenas, p: Placement) -> None:
    prompts = max(p.prompt_tokens(k) for k in range(len(p.block.batches)))
    rows = max(batch.num_rows for batch in p.block.batches)
    if p.rolls:
        _add_seats(arenas, p, prompts, rows)
    else:
        arenas.ring("ids", "gpu.work", p.live, prompts * ID_BYTES)
        arenas.ring("ids_host", "host.work", len(p.block.batches), prompts * ID_BYTES)
        arenas.ring("outputs", "host.work", len(p.block.batches), rows * p.block.gen_len * ID_BYTES)
    if p.gathers:
        size = max(rows, prompts) * p.shape.embed_size * p.shape.bytes_per_element
        arenas.ring("rows_host", "host.work", 2, size)
        arenas.ring("rows", "gpu.work", 2, size)


def _add_seats(arenas: _Arenas, p: Placement, prompts: int, rows: int) -> None:
    """Token ids of newcomers and of seats, and where each row begins; on the host for each pass that is in flight."""
    arenas.ring("prompt_ids", "gpu.work", p.block.doors, prompts * ID_BYTES)
    arenas.ring("prompt_ids_host", "host.work", PASSES_IN_FLIGHT * p.block.doors, prompts * ID_BYTES)
    arenas.ring("ids", "gpu.work", p.live, rows * ID_BYTES)
    arenas.ring("outputs", "host.work", PASSES_IN_FLIGHT * p.live, rows * ID_BYTES)
    arenas.ring("seats", "gpu.work", p.live, (1 + rows) * ID_BYTES)
    arenas.ring("seats_host", "host.work", PASSES_IN_FLIGHT * p.live, (1 + rows) * ID_BYTES)


def _workspace_bytes(p: Placement) -> int:
    """Of the largest task, and the masks of all micro-batches."""
    rows, longest = _widest(p)
    if p.rolls:
        return door_workspace_bytes(p.shape, rows, p.block.door_tokens, min(longest, p.block.door_tokens))
    context, sparsity = longest + p.block.gen_len, p.policy.attn_sparsity
    masks = sum(mask_bytes(b.num_rows, b.prompt_len) for b in p.block.batches)
    return masks + workspace_bytes(p.shape, rows, longest, context, sparsity)


def _widest(p: Placement) -> tuple[int, int]:
    """Rows of the largest micro-batch, and tokens of the longest prompt."""
    return max(b.num_rows for b in p.block.batches), max(b.prompt_len for b in p.block.batches)
