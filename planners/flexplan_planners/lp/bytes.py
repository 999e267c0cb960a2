"""Bytes of the three tiers, affine in the shares: an upper bound of `flexplan.placement.placement`, and a tight one.

A fixed amount stands for what the layout rounds: rows of weights, grains of the cache, aligned slots, and
percents of three decimals.  Where prompts differ in length, the cache at home is that of typical micro-batches and a
longest one: a block may be a little above, and the planner then repairs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from math import ceil

from flexplan.model import ModelShape, Packing, weight_tensors
from flexplan.placement import (
    BUFFER_ALIGN,
    DISK_ALIGN,
    ID_BYTES,
    PIECE_ALIGN,
    PROB_BYTES,
    captured_bytes,
    mask_bytes,
    values_read,
    workspace_bytes,
)
from flexplan.problem import Problem
from flexplan.problem.ragged import padded_mean
from flexplan.units import round_up
from flexplan_planners.lp.rows import ONE, Row
from flexplan_planners.lp.switches import Switches

PERCENT_DECIMALS = 3
_PERCENT_SLACK = 2 * 10.0 ** -(PERCENT_DECIMALS + 2)  # two shares rounded down, as parts of 1
_SLOT_ALIGN = 256
_BUFFERS, _BATCH_BUFFERS = 32, 8  # that begin at a page of their own, at most: of a block, of a micro-batch
_PIECES = 3  # of a tensor, at most: one a tier
_MORE_TENSORS = 4  # that a layer may have, beyond the mean of all layers
_MOVED_GRAINS = 5  # one that rounding adds: at home, in two slots of the ring (relay) and in two of what is new
_HIDDEN_SLOTS = 3  # of the ring of hidden states, where they do not stay on the gpu
_HIDDEN_RELAYS = 4  # of those on disk, on the host
_WEIGHT_RELAYS = 4  # on the host: two slots of what comes from disk, two of what is staged where it is not pinned
_RELAYED_ROWS = 4  # of the disk's cache, in the two slots of the relay and the two of what goes out
_BATCHES = 8  # of a block, to tell how a typical micro-batch is padded


@dataclass(frozen=True, slots=True)
class Tensors:
    """All weights of a model, a token table of its own included: how many, their bytes, the largest row of any."""

    count: int
    nbytes: int
    largest_row: int


@cache
def _tensors(shape: ModelShape, packing: Packing | None) -> Tensors:
    """What no batch size changes."""
    found = weight_tensors(shape, packing)
    largest_row = max(t.nbytes if t.cols == 1 else t.rows_bytes(t.grain_rows) for t in found)
    return Tensors(len(found), sum(t.nbytes for t in found), largest_row)


class Sizes:
    """Bytes of each thing that is stored, for micro-batches of ``rows`` sequences, packed as ``switches`` say."""

    def __init__(self, problem: Problem, rows: int, switches: Switches) -> None:
        self.problem = problem
        self.grain = switches.pair_bytes  # keys and values of one token, layer, sequence and KV head
        self.sparsity = switches.attn_sparsity
        self.sep_layer = switches.sep_layer
        self.tensors = _tensors(problem.model, switches.weight_packing)
        self.weights = self.tensors.nbytes
        self.largest_row = self.tensors.largest_row
        self.shape = problem.model
        self.num_rows = rows
        self.prompt = problem.workload.prompt_len
        self.capacity = self.prompt + problem.workload.gen_len - 1

    @cached_property
    def weight_slack(self) -> int:
        """Padding of all pieces and slots, and the row or vector that rounding may move between two tiers."""
        padded = self.tensors.count * _PIECES * PIECE_ALIGN + self.weight_homes * _SLOT_ALIGN
        return padded + 2 * self.largest_row + BUFFER_ALIGN

    @property
    def weight_homes(self) -> int:
        """Slots of a tier's weights, at most: attention and MLP apart, embedding, head, a token table of its own."""
        return 2 * self.shape.num_layers + 3

    def _kept(self, tokens: int) -> list[int]:
        """Of a row's tokens those that each layer keeps."""
        if not self.shape.windows:
            return [tokens] * self.shape.num_layers
        return [self.shape.kept(depth, tokens) for depth in range(self.shape.num_layers)]

    def _cache(self, tokens: int) -> int:
        """Of one micro-batch, so many tokens of a row in all layers together."""
        return self.num_rows * self.shape.num_kv_heads * tokens * self.grain

    @cached_property
    def kept(self) -> int:
        """Tokens of a row that the layers have room for, all together."""
        return sum(self._kept(self.capacity))

    @cached_property
    def layer_cache(self) -> int:
        """Of one layer and micro-batch, full: the largest."""
        return self._cache(max(self._kept(self.capacity)))

    @cached_property
    def cache(self) -> int:
        """Of all layers of a micro-batch, full."""
        return self._cache(self.kept)

    @cached_property
    def typical_cache(self) -> int:
        """The same of a typical micro-batch, where prompts differ in length."""
        work = self.problem.workload
        batches = ceil((work.num_prompts or self.num_rows) / self.num_rows)
        tokens = ceil(padded_mean(work, self.num_rows, min(batches, _BATCHES))) + work.gen_len - 1
        return self._cache(sum(self._kept(tokens)))

    @cached_property
    def excess_cache(self) -> int:
        """What the longest micro-batch needs beyond a typical one, of all layers: each block has one such."""
        return self.cache - self.typical_cache

    @cached_property
    def layer_prompt_cache(self) -> int:
        """Of one layer, the largest, for the prompt alone."""
        return self._cache(max(self._kept(self.prompt)))

    @cached_property
    def prompt_hidden(self) -> int:
        """Hidden states of a micro-batch in the prefill."""
        return self.num_rows * self.prompt * self.shape.hidden_size * self.shape.bytes_per_element

    @cached_property
    def token_hidden(self) -> int:
        """The same in decoding."""
        return self.prompt_hidden // self.prompt

    @cached_property
    def queries(self) -> int:
        return self.num_rows * self.shape.q_size * self.shape.bytes_per_element

    @cached_property
    def table_rows(self) -> int:
        """Rows of the token table for a prompt, gathered on the host."""
        return self.num_rows * self.prompt * self.shape.embed_size * self.shape.bytes_per_element

    @cached_property
    def workspace(self) -> int:
        context = self.prompt + self.problem.workload.gen_len
        once = workspace_bytes(self.shape, self.num_rows, self.prompt, context, self.sparsity)
        return once + captured_bytes(self.shape, self.num_rows, context, self.sparsity)

    @cached_property
    def chosen(self) -> int:
        """Values of one grain that a step streams."""
        return values_read(self.sparsity, max(self._kept(self.capacity)) - 1)

    @cached_property
    def choices(self) -> int:
        """Which those are and what they weigh, of one micro-batch and two grains that rounding moves."""
        grains = self.num_rows * self.shape.num_kv_heads + 2
        return grains * self.chosen * (ID_BYTES + PROB_BYTES * self.shape.group_size)

    @cached_property
    def ring_slack(self) -> int:
        """What rounding may add to one layer's streamed weights."""
        per_layer = self.tensors.count // self.shape.num_layers + _MORE_TENSORS
        return 2 * self.largest_row + 2 * per_layer * PIECE_ALIGN + 2 * DISK_ALIGN


class Memory:
    """What a block of micro-batches of ``rows`` sequences needs: one row a tier, made of sizes."""

    def __init__(self, problem: Problem, rows: int, switches: Switches) -> None:
        self.size = Sizes(problem, rows, switches)
        self._known: dict[tuple[object, ...], Row] = {}

    def rows(self, s: Switches) -> dict[str, Row]:
        """Bytes of each tier for one setting of the switches."""
        homes = s.weights_stay, s.cache, s.act_stays
        return {
            "gpu": self._once(self._gpu, s, *homes),
            "cpu": self._once(self._cpu, s, *homes, s.disk == "all", s.pin_weight),
            "disk": self._once(self._disk, s, *homes, s.disk),
        }

    def _once(self, verb: Callable[[Switches], Row], s: Switches, *of: object) -> Row:
        """The row of a tier, which depends on these settings alone."""
        key = (verb.__name__, *of)
        if key not in self._known:
            self._known[key] = verb(s)
        return self._known[key]

    def _gpu(self, s: Switches) -> Row:
        """Weights at home, in the ring and unpacked + cache at home and in rings + hidden states + workspace."""
        size = self.size
        ring, streams, split = s.weight_slots * s.largest_layer, not s.weights_stay, s.splits_steps
        unpacked = s.unpacked_slots * round_up(max(s.unpacked_bytes), BUFFER_ALIGN)
        hidden = 0 if s.act_stays else _HIDDEN_SLOTS * (size.prompt_hidden + size.token_hidden)
        fixed = size.weight_slack + size.workspace + hidden + unpacked + _BUFFERS * BUFFER_ALIGN
        fixed += (s.weight_slots * size.ring_slack + 2 * size.table_rows) if streams else 0
        fixed += _MOVED_GRAINS * size.capacity * size.grain if s.cache != "gpu" else 0
        fixed += size.queries if split else 0
        each = size.num_rows * size.prompt * ID_BYTES + _BATCH_BUFFERS * BUFFER_ALIGN
        each += (size.prompt_hidden if s.act_stays else 0) + (size.queries if split else 0)
        kept = size.token_hidden  # from pass to pass where all stays, from half to half where steps are split
        each += kept if s.act_stays or split else 0
        each += size.shape.num_layers * _SLOT_ALIGN + mask_bytes(size.num_rows, size.prompt)
        moved = 2 * size.layer_prompt_cache + self._brought(s)
        fixed, each = (x + (size.choices if s.chooses else 0) for x in (fixed, each))
        return Row(
            {"w_gpu": size.weights, "w_cpu": ring, "w_disk": ring, ONE: fixed},
            {
                "cache_gpu": size.typical_cache,
                "act_gpu": 0 if s.act_stays else size.prompt_hidden + (0 if split else kept),
                ONE: each,
            },
            {"cache_gpu": size.excess_cache, "cache_cpu": moved, "cache_disk": moved},
        )

    def _brought(self, s: Switches) -> int:
        """Two slots of what attention off the gpu sends there, or of what the gpu streams."""
        size = self.size
        if s.cache == "host":
            return 2 * size.queries
        if not s.chooses:
            return 2 * size.layer_cache
        values = size.num_rows * size.shape.num_kv_heads * size.chosen * size.grain // 2
        return size.layer_cache + 2 * values

    def _cpu(self, s: Switches) -> Row:
        """Weights + cache + activations at home on the host, and the relays of the disk."""
        size = self.size
        largest, streams, hosted = s.largest_layer, not s.weights_stay, s.cache == "host"
        fixed = _BUFFERS * BUFFER_ALIGN
        if streams:
            fixed += size.weight_homes * BUFFER_ALIGN  # each begins a page
            fixed += int(_PERCENT_SLACK * size.weights) + size.weight_slack
            fixed += _WEIGHT_RELAYS * size.ring_slack + 2 * size.table_rows
        if s.cache != "gpu":
            fixed += _MOVED_GRAINS * size.capacity * size.grain
            fixed += _RELAYED_ROWS * size.capacity * DISK_ALIGN if s.disk == "all" else 0
        outputs = size.num_rows * size.problem.workload.gen_len * ID_BYTES
        each = size.num_rows * size.prompt * ID_BYTES + outputs
        each += size.shape.num_layers * _SLOT_ALIGN + _BATCH_BUFFERS * BUFFER_ALIGN
        cache, answers = size.typical_cache, 2 * size.queries if hosted else 0
        each += int(_PERCENT_SLACK * cache) if s.cache != "gpu" else 0
        relay = 2 * size.layer_cache + 2 * size.layer_prompt_cache
        return Row(
            {
                "w_cpu": size.weights + (0 if s.pin_weight else 2 * largest),
                "w_disk": 2 * largest,
                ONE: fixed,
            },
            {
                "cache_cpu": cache + answers,
                "cache_disk": answers,
                "act_cpu": 0 if s.act_stays else size.prompt_hidden,
                ONE: each,
            },
            {
                "cache_cpu": size.excess_cache + answers,
                "cache_disk": answers + relay,
                "act_disk": _HIDDEN_RELAYS * size.prompt_hidden,
            },
        )

    def _disk(self, s: Switches) -> Row:
        """Weights, cache and activations at home on disk, in aligned pieces."""
        size = self.size
        if s.disk == "none":
            return Row()
        fixed, each = _BUFFERS * BUFFER_ALIGN, _BATCH_BUFFERS * BUFFER_ALIGN
        if not s.weights_stay:
            fixed += int(_PERCENT_SLACK * size.weights) + size.weight_slack + 2 * s.num_layers * DISK_ALIGN
        if s.cache != "gpu" and s.disk == "all":
            each += size.kept * DISK_ALIGN
            each += int(_PERCENT_SLACK * size.cache)
        return Row(
            {"w_disk": size.weights, ONE: fixed},
            {
                "cache_disk": size.typical_cache,
                "act_disk": 0 if s.act_stays else size.prompt_hidden,
                ONE: each,
            },
            {"cache_disk": size.excess_cache},
        )
