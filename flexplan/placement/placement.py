"""Placement: percents -> which bytes of which arena every tensor of a block occupies.

The same function sizes the runtime's arenas and the planner's memory, so a plan's peak is the runtime's.

Arenas by tier: gpu.weights, gpu.work, gpu.workspace (what kernels allocate by themselves);
host.weights, pageable.weights, host.work on the cpu tier; disk.weights, disk.work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import lcm

from flexplan.graph.graph import Buffer
from flexplan.model.layers import Layer, schedule_layers
from flexplan.model.shape import ModelShape
from flexplan.model.tensors import TOKENS
from flexplan.placement.apportion import cut
from flexplan.placement.cache import Segment, place_cache, values_read
from flexplan.placement.prefetch import lookahead, weight_leads
from flexplan.placement.weights import DISK_ALIGN, TIERS, LayerWeights, Piece, place_weights
from flexplan.placement.workspace import captured_bytes, mask_bytes, workspace_bytes
from flexplan.policy.blocks import Block
from flexplan.policy.policy import Policy
from flexplan.units import round_up

ID_BYTES = 8
PROB_BYTES = 4  # an attention weight between the two halves of a step: float32
BUFFER_ALIGN = 4096
_WHOLE_PAGES = frozenset(("disk.weights", "disk.work", "host.weights"))  # direct I/O; a layer is page-locked by itself
TIER_OF_ARENA = {"gpu": "gpu", "host": "cpu", "pageable": "cpu", "disk": "disk"}


def tier_of(arena: str) -> str:
    """The tier whose budget an arena is charged to.

    >>> tier_of("pageable.weights")
    'cpu'
    """
    return TIER_OF_ARENA[arena.partition(".")[0]]


@dataclass(frozen=True)
class Placement:
    """Where everything of one block lives; ``live`` micro-batches are in flight at a time.

    Weights do not depend on the block: two placements of one policy agree on them.
    """

    shape: ModelShape
    policy: Policy
    block: Block
    live: int
    weights: tuple[LayerWeights, ...]
    cache: tuple[tuple[Segment, ...], ...]

    @classmethod
    def of(cls, shape: ModelShape, policy: Policy, block: Block, live: int | None = None) -> Placement:
        """The placement of a block; ``live`` defaults to all its micro-batches."""
        return _placement(shape, policy, block, live or len(block.batches))

    # -- the work of a step ------------------------------------------------------------------------------
    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        return schedule_layers(self.shape, self.policy.sep_layer)

    def rows(self, k: int) -> int:
        """Sequences of micro-batch k."""
        return self.block.batches[k].num_rows

    def new_tokens(self, i: int, k: int) -> int:
        """Positions of one row that step i computes: the padded prompt, then one."""
        return self.block.batches[k].prompt_len if i == 0 else 1

    def context(self, i: int, k: int) -> int:
        """Positions of one row after step i."""
        return self.block.batches[k].prompt_len + i

    def segment(self, layer: Layer, k: int) -> Segment:
        """The KV cache of a layer and micro-batch."""
        return self.cache[layer.depth][k]

    def hosted(self, i: int, layer: Layer, k: int) -> int:
        """Grains that the host attends over in step i; a prompt attends to its own fresh keys on the gpu."""
        return self.segment(layer, k).hosted if i and layer.attends else 0

    @cached_property
    def chooses(self) -> bool:
        """True where the gpu streams keys, and of the values only those that sparse attention chose by them."""
        return self.policy.attn_sparsity < 1 and any(s.streamed for row in self.cache for s in row)

    def chosen(self, i: int, k: int) -> int:
        """Old values of each streamed grain that step i brings to the gpu; 0 where they come with their keys."""
        return values_read(self.policy.attn_sparsity, self.context(i, k) - 1) if i and self.chooses else 0

    @property
    def streamed_parts(self) -> int:
        """Of keys and values, what is streamed whole: both, or the keys alone."""
        return 1 if self.chooses else 2

    def hidden_bytes(self, i: int, k: int) -> int:
        """Bytes of the hidden states of a micro-batch between two layers."""
        return self.rows(k) * self.new_tokens(i, k) * self.shape.hidden_size * self.shape.bytes_per_element

    def hidden_parts(self, i: int, k: int) -> tuple[int, int, int]:
        """The same by tier: the first bytes stay on the gpu, the next go to the host, the last to disk."""
        gpu, cpu, disk = cut(self.hidden_bytes(i, k), self.policy.shares("act"), 64)
        return gpu, cpu, disk

    @property
    def hidden_stays(self) -> bool:
        """True where all activations are at home on the gpu, and never move."""
        return self.policy.act_gpu_percent >= 100

    @property
    def table(self) -> LayerWeights:
        """The layer that holds the token table: the head where it is tied, else its own."""
        return next(w for w in reversed(self.weights) if any(p.tensor.name == TOKENS for p in w.pieces))

    @cached_property
    def table_pieces(self) -> tuple[Piece, ...]:
        return tuple(p for p in self.table.pieces if p.tensor.name == TOKENS)

    @property
    def gathers(self) -> bool:
        """True where some rows of the token table are off the gpu."""
        return any(p.tier != "gpu" for p in self.table_pieces)

    # -- slots ---------------------------------------------------------------------------------------------
    @property
    def unpacked_slots(self) -> int:
        """Layers whose weights are unpacked on the gpu at a time: those that compute at the same time."""
        return 2 if self.policy.overlap and self.policy.splits_steps else 1

    @property
    def lookahead(self) -> int:
        """Layers whose weights are on their way while one computes."""
        return lookahead(self.policy)

    @cached_property
    def weight_leads(self) -> tuple[int, ...]:
        """How many layers before it each layer's weights begin to arrive.

        A schedule that loads them earlier overwrites weights that are still to be read.
        """
        return weight_leads([w.blob_bytes > 0 for w in self.weights[: len(self.layers)]], self.lookahead + 1)

    @cached_property
    def preloaded(self) -> int:
        """Layers whose weights are on their way before the first pass begins."""
        return sum(j < max(lead, self.lookahead) for j, lead in enumerate(self.weight_leads))

    def cache_index(self, depth: int, k: int) -> int:
        """Index of a layer's cache; with fewer live micro-batches than k's, a slot serves one after the other."""
        return k * self.shape.num_layers + depth

    @cached_property
    def buffers(self) -> Mapping[str, Buffer]:
        """Every buffer, laid out in its arena; buffers that would be empty are left out."""
        return self._layout.buffers

    def turns(self, count: int) -> int:
        """What a pass of ``count`` turns counts for: after so many, every ring is back at its first slot."""
        return round_up(count, self._layout.round)

    @cached_property
    def _layout(self) -> _Layout:
        layout = _Layout()
        _add_weights(layout, self)
        _add_cache(layout, self)
        _add_hidden(layout, self)
        _add_attention(layout, self)
        _add_tokens(layout, self)
        return layout

    @cached_property
    def arena_bytes(self) -> Mapping[str, int]:
        """Bytes of each arena."""
        sizes: dict[str, int] = {"gpu.workspace": _workspace(self) + self.captured_bytes}
        for b in self.buffers.values():
            end = max(o + s for o, s in zip(b.offsets, b.sizes, strict=True))
            sizes[b.arena] = max(sizes.get(b.arena, 0), round_up(end, BUFFER_ALIGN))
        return sizes

    @cached_property
    def captured_bytes(self) -> int:
        """The part of gpu.workspace that captured steps keep for themselves."""
        rows, longest = _widest(self)
        # a step that leaves its choice to another task is never captured
        sparsity, apart = 1.0 if self.chooses else self.policy.attn_sparsity, self.policy.sep_layer
        return captured_bytes(self.shape, rows, longest + self.block.gen_len, sparsity, sep_layer=apart)

    def tier_bytes(self) -> dict[str, int]:
        """Peak bytes of each tier."""
        sizes = dict.fromkeys(TIERS, 0)
        for arena, nbytes in self.arena_bytes.items():
            sizes[tier_of(arena)] += nbytes
        return sizes

    def realised(self) -> dict[str, tuple[float, float, float]]:
        """Shares in percent that the layout really gives, by tier, of weights, cache and activations."""
        parts: dict[str, list[int]] = {"w": [0, 0, 0], "cache": [0, 0, 0], "act": [0, 0, 0]}
        for n, tier in enumerate(TIERS):
            parts["w"][n] = sum(w.payload(tier) for w in self.weights)
            parts["cache"][n] = sum(s.payload(tier) for row in self.cache for s in row)
            parts["act"][n] = sum(self.hidden_parts(0, k)[n] for k in range(len(self.block.batches)))
        return {what: _percents(values) for what, values in parts.items()}


@lru_cache(maxsize=16)  # a plan is predicted, held against its budgets and checked: one placement serves them all
def _placement(shape: ModelShape, policy: Policy, block: Block, live: int) -> Placement:
    weights, cache = place_weights(shape, policy), place_cache(shape, policy, block)
    return Placement(shape, policy, block, live, weights, cache)


def _percents(values: Sequence[int]) -> tuple[float, float, float]:
    gpu, cpu, disk = (100 * v / max(1, sum(values)) for v in values)
    return gpu, cpu, disk


class _Layout:
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


def _add_weights(layout: _Layout, p: Placement) -> None:
    streamed = p.weights[: len(p.layers)]
    cpu_arena = "host.weights" if p.policy.pin_weight else "pageable.weights"
    layout.add("weights_gpu", "gpu.weights", [w.part_bytes["gpu"] for w in p.weights])
    layout.add("weights_cpu", cpu_arena, [w.part_bytes["cpu"] for w in p.weights])
    layout.add("weights_disk", "disk.weights", [w.part_bytes["disk"] for w in p.weights])
    layout.ring("weight_ring", "gpu.work", p.lookahead + 1, max(w.blob_bytes for w in streamed))
    layout.ring("weights_unpacked", "gpu.work", p.unpacked_slots, max(w.unpacked_bytes for w in p.weights))
    slots = 2 if p.policy.overlap else 1
    layout.ring("weight_relay", "host.work", slots, max(w.part_bytes["disk"] for w in streamed))
    if not p.policy.pin_weight:
        layout.ring("weight_stage", "host.work", slots, max(w.part_bytes["cpu"] for w in streamed))


def _add_cache(layout: _Layout, p: Placement) -> None:
    segments = [s for row in p.cache for s in row]
    homes: dict[int, list[Segment]] = {}
    for s in segments:
        slot = (s.k * p.shape.num_layers + s.depth) % (p.live * p.shape.num_layers)
        homes.setdefault(slot, []).append(s)
    for tier, arena in (("gpu", "gpu.work"), ("cpu", "host.work"), ("disk", "disk.work")):
        sizes = [max(s.resident_bytes(tier) for s in homes[slot]) for slot in sorted(homes)]
        layout.add(f"cache_{tier}", arena, sizes)
    slots = 2 if p.policy.overlap else 1
    streamed = (s.streamed * s.capacity * s.vector_bytes for s in segments)
    layout.ring("cache_ring", "gpu.work", slots, max(streamed) * p.streamed_parts)
    layout.ring("cache_relay", "host.work", slots, max(s.resident_bytes("disk") for s in segments))
    prompts = [(s, p.new_tokens(0, s.k)) for s in segments]
    layout.ring("fresh", "gpu.work", slots, max(s.off_gpu * t * s.pair_bytes for s, t in prompts))
    layout.ring("cache_out", "host.work", slots, max(t * s.disk_row_bytes for s, t in prompts))


def _add_hidden(layout: _Layout, p: Placement) -> None:
    ks = range(len(p.block.batches))
    sizes = {i: max(p.hidden_bytes(i, k) for k in ks) for i in (0, 1)}
    slots = {0: 3, 1: p.live + 2 if p.policy.splits_steps else 3}
    for i, phase in enumerate(("prefill", "decode")):
        layout.ring(f"hidden_{phase}", "gpu.work", p.live if p.hidden_stays else slots[i], sizes[i])
    if p.hidden_stays:
        return
    parts = [max(p.hidden_parts(i, k)[n] for i in (0, 1) for k in ks) for n in range(3)]  # rounding may favour either
    layout.ring("hidden_gpu", "gpu.work", p.live, parts[0])
    layout.ring("hidden_cpu", "host.work", p.live, parts[1])
    layout.ring("hidden_relay", "host.work", 4, parts[2])
    layout.ring("hidden_disk", "disk.work", p.live, parts[2])


def _add_attention(layout: _Layout, p: Placement) -> None:
    """What the two halves of a step leave to each other."""
    element, group = p.shape.bytes_per_element, p.shape.group_size * p.shape.head_dim
    hosted = max(s.hosted for row in p.cache for s in row) * group * element
    if not hosted and not p.chooses:
        return
    rows = max(batch.num_rows for batch in p.block.batches)
    layout.ring("attention", "gpu.work", p.live + 1, rows * p.shape.q_size * element)
    if hosted:
        layout.ring("queries", "gpu.work", 2, hosted)
        layout.ring("queries_host", "host.work", p.live + 1, hosted)
        layout.ring("attention_host", "host.work", p.live + 1, hosted)
    else:
        last = p.block.gen_len - 1
        values = max(s.streamed * p.chosen(last, s.k) for row in p.cache for s in row)
        layout.ring("choices", "gpu.work", p.live + 1, values * ID_BYTES)
        layout.ring("probs", "gpu.work", p.live + 1, values * p.shape.group_size * PROB_BYTES)
        layout.ring("values", "gpu.work", 2 if p.policy.overlap else 1, values * p.cache[0][0].vector_bytes)


def _add_tokens(layout: _Layout, p: Placement) -> None:
    prompts = max(batch.num_rows * batch.prompt_len for batch in p.block.batches)
    layout.ring("ids", "gpu.work", p.live, prompts * ID_BYTES)
    layout.ring("ids_host", "host.work", len(p.block.batches), prompts * ID_BYTES)
    outputs = max(batch.num_rows for batch in p.block.batches) * p.block.gen_len
    layout.ring("outputs", "host.work", len(p.block.batches), outputs * ID_BYTES)
    if p.gathers:
        size = prompts * p.shape.embed_size * p.shape.bytes_per_element
        layout.ring("rows_host", "host.work", 2, size)
        layout.ring("rows", "gpu.work", 2, size)


def _workspace(p: Placement) -> int:
    """Of the largest task, and the masks of all micro-batches."""
    rows, longest = _widest(p)
    masks = sum(mask_bytes(b.num_rows, b.prompt_len) for b in p.block.batches)
    sparsity, apart = p.policy.attn_sparsity, p.policy.sep_layer
    return masks + workspace_bytes(p.shape, rows, longest, longest + p.block.gen_len, sparsity, sep_layer=apart)


def _widest(p: Placement) -> tuple[int, int]:
    """Rows of the largest micro-batch, and tokens of the longest prompt."""
    return max(b.num_rows for b in p.block.batches), max(b.prompt_len for b in p.block.batches)
