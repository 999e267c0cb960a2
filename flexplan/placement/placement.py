"""Placement: percents -> which part of every tensor of a block lives on which tier, and how much each step touches.

Where those parts lie, byte by byte, is the `Layout`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import inf

from flexplan.errors import PolicyError
from flexplan.graph import TIERS
from flexplan.model import MLP, TOKENS, Layer, ModelShape, schedule_layers
from flexplan.placement.apportion import cut
from flexplan.placement.cache import Segment, place_cache, values_read
from flexplan.placement.prefetch import lookahead, unpacked_slots, weight_leads
from flexplan.placement.weights import LayerWeights, Piece, place_weights
from flexplan.policy import Block, Policy

ID_BYTES = 8
PROB_BYTES = 4  # an attention weight between the two halves of a step: float32
GATE_BYTES = 4  # what an expert counts for, between router and experts: float32


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

    def prompt_tokens(self, k: int) -> int:
        """Tokens of prompts of micro-batch k that go through a layer in one pass, at the most."""
        return self.block.door_tokens or self.rows(k) * self.new_tokens(0, k)

    @property
    def rolls(self) -> bool:
        """True where rows are seats that requests take and leave in any pass."""
        return self.block.door_tokens > 0

    def context(self, i: int, k: int) -> int:
        """Positions of one row after step i."""
        return self.block.batches[k].prompt_len + i

    def segment(self, layer: Layer, k: int) -> Segment:
        """The KV cache of a layer and micro-batch."""
        return self.cache[layer.depth][k]

    # -- positions of one row in the cache of a layer; where that is a ring, the newest take the place of the oldest
    def kept(self, i: int, layer: Layer, k: int) -> int:
        """Positions that step i adds to the cache: of a prompt the last ones, if it has no room for all."""
        return min(self.new_tokens(i, k), self.segment(layer, k).capacity)

    def old(self, i: int, layer: Layer, k: int) -> int:
        """Positions that are in the cache before step i."""
        return min(self.context(i, k) - self.new_tokens(i, k), self.segment(layer, k).capacity)

    def added(self, i: int, layer: Layer, k: int) -> int:
        """Positions that were ever added to the cache before step i."""
        return self.kept(0, layer, k) + i - 1 if i else 0

    def column(self, i: int, layer: Layer, k: int) -> int:
        """Where in the cache step i begins to add."""
        return self.added(i, layer, k) % self.segment(layer, k).capacity

    @cached_property
    def _rings(self) -> tuple[tuple[int, ...], ...]:
        """Of each micro-batch, the sizes of caches in which not all positions have room; of seats, of all caches."""
        ks, last = range(len(self.block.batches)), self.block.gen_len - 1
        longest = (inf if self.rolls else self.context(last, k) for k in ks)
        rooms = ({row[k].capacity for row in self.cache} for k in ks)
        return tuple(tuple(sorted(r for r in some if r < most)) for some, most in zip(rooms, longest, strict=True))

    def rings(self, k: int) -> tuple[int, ...]:
        """The sizes, in positions, of those caches of micro-batch k that are rings."""
        return self._rings[k]

    def full_rings(self, i: int, k: int) -> int:
        """How many of these sizes are too small for all positions up to step i."""
        return sum(room < self.context(i, k) for room in self.rings(k))

    def hosted(self, i: int, layer: Layer, k: int) -> int:
        """Grains that the host attends over in step i; a prompt attends to its own fresh keys on the gpu."""
        return self.segment(layer, k).hosted if i and layer.attends else 0

    @cached_property
    def chooses(self) -> bool:
        """True where the gpu streams keys, and of the values only those that sparse attention chose by them."""
        return self.policy.attn_sparsity < 1 and any(s.streamed for row in self.cache for s in row)

    def chosen(self, i: int, s: Segment) -> int:
        """Old values of each streamed grain that step i brings to the gpu; 0 where they come with their keys."""
        if not i or not self.chooses:
            return 0
        return values_read(self.policy.attn_sparsity, min(self.context(i, s.k), s.capacity) - 1)

    def chosen_by_layers(self, i: int, k: int) -> tuple[int, ...]:
        """The same of each layer; nothing where none chooses."""
        return tuple(self.chosen(i, row[k]) for row in self.cache) if self.chooses else ()

    @property
    def streamed_parts(self) -> int:
        """Of keys and values, what is streamed whole: both, or the keys alone."""
        return 1 if self.chooses else self.shape.vectors_kept

    # -- a mixture's experts -------------------------------------------------------------------------------------
    def on_demand(self, i: int, layer: Layer) -> bool:
        """True where step i of a layer waits for its router, and for the experts that this has chosen."""
        return bool(self.policy.experts_on_demand and i and layer.role == MLP and self.weights[layer.j].expert_spans)

    def sent_ahead(self, i: int, layer: Layer) -> int:
        """Bytes of a layer's part on the host that are sent before it is known what step i wants."""
        w = self.weights[layer.j]
        return w.experts_at if self.on_demand(i, layer) else w.part_bytes["cpu"]

    def chosen_bytes(self, k: int) -> int:
        """Which experts the tokens of a decoding step of micro-batch k have, as indices."""
        return self.rows(k) * self.shape.experts_per_token * ID_BYTES

    def gates_bytes(self, k: int) -> int:
        """And what each counts for."""
        return self.rows(k) * self.shape.experts_per_token * GATE_BYTES

    def hidden_bytes(self, i: int, k: int) -> int:
        """Bytes of the hidden states of a micro-batch between two layers."""
        tokens = self.rows(k) if i else self.prompt_tokens(k)
        return tokens * self.shape.hidden_size * self.shape.bytes_per_element

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

    def heads_on_gpu(self, depth: int, k: int, row: int) -> int:
        """KV heads of a row of micro-batch k that are at home on the gpu in a transformer layer: its first ones."""
        heads = self.shape.num_kv_heads
        return min(heads, max(0, self.cache[depth][k].grains[0] - row * heads))

    # -- slots ---------------------------------------------------------------------------------------------
    @property
    def unpacked_slots(self) -> int:
        """Layers whose weights are unpacked on the gpu at a time: those that compute at the same time."""
        return unpacked_slots(self.policy)

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
    if (shape.sinks or shape.latent) and policy.attn_sparsity < 1:
        what = "sinks, whose weight would be left out" if shape.sinks else "keys that are values, which are all read"
        message = f"attn_sparsity {policy.attn_sparsity:g}: {shape.name} has {what}"
        raise PolicyError("FP215", message, fix="attn_sparsity=1.0")
    if policy.sep_layer:
        splits(shape, (True,))
    if policy.experts_on_demand and not shape.num_experts:
        message = f"experts_on_demand: {shape.name} has no experts"
        raise PolicyError("FP221", message, fix="experts_on_demand=False")
    weights, cache = place_weights(shape, policy), place_cache(shape, policy, block)
    return Placement(shape, policy, block, live, weights, cache)


def splits(shape: ModelShape, asked: Sequence[bool]) -> tuple[bool, ...]:
    """Which of these settings of ``sep_layer`` a model has; PolicyError where none is left.

    Two halves that are given the same hidden states are one step: the first would overwrite what the second reads.
    """
    found = tuple(setting for setting in asked if not (setting and shape.parallel))
    if not found:
        message = f"sep_layer: {shape.name} computes attention and feed-forward of a layer side by side, in one step"
        raise PolicyError("FP218", message, fix="sep_layer=False")
    return found


def _percents(values: Sequence[int]) -> tuple[float, float, float]:
    gpu, cpu, disk = (100 * v / max(1, sum(values)) for v in values)
    return gpu, cpu, disk
