"""Placement: percents become bytes, as asked and evenly; what is laid out never overlaps."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import pytest
from flexplan_planners.schedules.zigzag import ZigZag
from hypothesis import given, settings
from hypothesis import strategies as st

from flexplan.errors import InfeasiblePlan
from flexplan.graph import TIERS, Buffer, tier_of
from flexplan.model import ModelShape, WeightTensor, model_shape, read_config, weight_tensors
from flexplan.placement import Layout, Placement
from flexplan.plan import Plan, refuse_over_budget
from flexplan.policy import Block, Policy, fill_blocks, full_block
from flexplan.policy.blocks import MicroBatch
from flexplan.problem import Problem, Workload
from flexplan.simulation import peak_bytes
from flexplan.testing import policy_with

SHAPES = {
    name: model_shape(name).model_copy(update={"num_layers": layers})
    for name, layers in [
        ("facebook/opt-125m", 12),
        ("facebook/opt-30b", 6),
        ("meta-llama/Llama-3.1-8B", 4),
        ("Qwen/Qwen2.5-0.5B", 3),
        ("mistralai/Mixtral-8x7B-v0.1", 2),
    ]
}


@st.composite
def percents(draw: st.DrawFn) -> tuple[float, float]:
    gpu = draw(st.sampled_from([0.0, 100.0]) | st.floats(0, 100))
    cpu = draw(st.sampled_from([0.0, 100.0]) | st.floats(0, 100))
    return gpu, min(cpu, 100 - gpu)


policies = st.builds(
    lambda block, w, cache, act, overlap, sep, pin, hosted, compress, sparse: policy_with(
        *block,
        w=w,
        cache=cache,
        act=act,
        overlap=overlap,
        sep_layer=sep,
        pin_weight=pin,
        cpu_cache_compute=hosted,
        compress_weight=compress,
        attn_sparsity=0.3 if sparse and sum(cache) > 100 - 1e-7 else 1.0,
    ),
    st.tuples(st.integers(1, 8), st.integers(1, 5)),
    percents(),
    percents(),
    percents(),
    *[st.booleans()] * 6,
)
shapes = st.sampled_from(sorted(SHAPES)).map(SHAPES.__getitem__)
blocks = st.tuples(st.integers(1, 40), st.integers(1, 20))


def placement_of(shape: ModelShape, policy: Policy, lengths: tuple[int, int]) -> Placement:
    prompt_len, gen_len = lengths
    return Placement.of(shape, policy, full_block(Workload(prompt_len=prompt_len, gen_len=gen_len), policy))


def stored_tensors(shape: ModelShape, policy: Policy) -> tuple[WeightTensor, ...]:
    return weight_tensors(shape, policy.weight_packing(shape.bytes_per_element))


# -- shares -----------------------------------------------------------------------------------------------------
@settings(max_examples=150, deadline=None)
@given(shapes, policies)
def test_weights_are_where_they_were_asked_to_be(shape: ModelShape, policy: Policy) -> None:
    placement = placement_of(shape, policy, (4, 2))
    total = sum(w.payload(tier) for w in placement.weights for tier in TIERS)
    assert total == sum(t.nbytes for t in stored_tensors(shape, policy))
    widest = max(t.rows_bytes(t.grain_rows) for t in stored_tensors(shape, policy))
    allowed = max(1.0, 100 * widest / total)
    for asked, realised in zip(policy.shares("w"), placement.realised()["w"], strict=True):
        assert abs(100 * asked - realised) <= allowed


@settings(max_examples=150, deadline=None)
@given(shapes, policies)
def test_the_cache_is_where_it_was_asked_to_be(shape: ModelShape, policy: Policy) -> None:
    placement = placement_of(shape, policy, (4, 2))
    grains = shape.num_layers * policy.block_size * shape.num_kv_heads
    for asked, realised in zip(policy.shares("cache"), placement.realised()["cache"], strict=True):
        assert abs(100 * asked - realised) <= max(1.0, 100 * 1 / grains)


@settings(max_examples=100, deadline=None)
@given(shapes, policies)
def test_every_layer_has_the_same_share(shape: ModelShape, policy: Policy) -> None:
    """Each pass moves the same bytes for every transformer layer, but for the rows that rounding moves."""
    placement = placement_of(shape, policy, (4, 2))
    depth_bytes: dict[int, dict[str, int]] = {}
    for layer, w in zip(placement.layers, placement.weights, strict=False):
        if 0 <= layer.depth < shape.num_layers:
            at = depth_bytes.setdefault(layer.depth, dict.fromkeys(TIERS, 0))
            for tier in TIERS:
                at[tier] += w.payload(tier)
    tensors = stored_tensors(shape, policy)
    widest = max(t.rows_bytes(t.grain_rows) for t in tensors if t.cols > 1)
    grain = widest + max((t.nbytes for t in tensors if t.cols == 1), default=0)
    for tier in TIERS:
        parts = [at[tier] for at in depth_bytes.values()]
        assert max(parts) - min(parts) <= max(4 * grain, sum(depth_bytes[0].values()) / 100)


@settings(max_examples=100, deadline=None)
@given(shapes, policies)
def test_at_most_two_tensors_of_a_layer_are_cut(shape: ModelShape, policy: Policy) -> None:
    for w in placement_of(shape, policy, (4, 2)).weights:
        names = [piece.tensor.name for piece in w.pieces]
        assert sum(names.count(name) > 1 for name in set(names)) <= 2


@settings(max_examples=100, deadline=None)
@given(shapes, policies)
def test_every_row_of_every_tensor_is_in_one_place(shape: ModelShape, policy: Policy) -> None:
    rows: dict[tuple[int, str], list[tuple[int, int]]] = {}
    for w in placement_of(shape, policy, (4, 2)).weights:
        for piece in w.pieces:
            rows.setdefault((piece.tensor.layer, piece.tensor.name), []).append((piece.row_lo, piece.row_hi))
            assert piece.row_hi == piece.tensor.rows or piece.row_hi % piece.tensor.grain_rows == 0
    for tensor in stored_tensors(shape, policy):
        spans = sorted(rows.pop((tensor.layer, tensor.name)))
        assert (spans[0][0], spans[-1][1]) == (0, tensor.rows)
        assert all(before[1] == after[0] for before, after in pairwise(spans))
    assert not rows


# -- bytes ------------------------------------------------------------------------------------------------------
@settings(max_examples=150, deadline=None)
@given(shapes, policies, blocks)
def test_no_two_slots_overlap(shape: ModelShape, policy: Policy, lengths: tuple[int, int]) -> None:
    placement = placement_of(shape, policy, lengths)
    arenas: dict[str, list[tuple[int, int]]] = {}
    for b in Layout.of(placement).buffers.values():
        arenas.setdefault(b.arena, []).extend((o, o + s) for o, s in zip(b.offsets, b.sizes, strict=True) if s)
    for arena, spans in arenas.items():
        spans.sort()
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        assert spans[-1][1] <= Layout.of(placement).arena_bytes[arena]


@settings(max_examples=100, deadline=None)
@given(shapes, policies, blocks)
def test_the_disk_is_read_in_whole_sectors(shape: ModelShape, policy: Policy, lengths: tuple[int, int]) -> None:
    for b in Layout.of(placement_of(shape, policy, lengths)).buffers.values():
        if b.arena.startswith("disk"):
            assert all(edge % 4096 == 0 for edge in (*b.offsets, *b.sizes))


@settings(max_examples=100, deadline=None)
@given(shapes, policies, blocks)
def test_pieces_of_a_layer_lie_inside_their_part(shape: ModelShape, policy: Policy, lengths: tuple[int, int]) -> None:
    placement = placement_of(shape, policy, lengths)
    for w in placement.weights:
        for tier in TIERS:
            pieces = sorted((p.offset, p.offset + p.nbytes) for p in w.pieces if p.tier == tier)
            assert all(end <= start for (_, end), (start, _) in pairwise(pieces))
            assert not pieces or pieces[-1][1] <= w.part_bytes[tier]
            assert all(start % 64 == 0 for start, _ in pieces)


def test_weights_do_not_depend_on_the_block() -> None:
    policy = policy_with(2, 2, w=(30, 40), cache=(50, 20))
    one, other = (placement_of(SHAPES["facebook/opt-125m"], policy, lengths) for lengths in ((4, 2), (90, 30)))
    assert one.weights == other.weights
    assert Layout.of(one).buffers["weights_gpu"] == Layout.of(other).buffers["weights_gpu"]


def buffers_of(policy: Policy) -> Mapping[str, Buffer]:
    return Layout.of(placement_of(SHAPES["facebook/opt-125m"], policy, (4, 2))).buffers


def test_pageable_weights_are_staged_through_pinned_memory() -> None:
    placed = buffers_of(policy_with(1, 1, w=(0, 100), pin_weight=False))
    assert placed["weights_cpu"].arena == "pageable.weights"
    assert placed["weight_stage"].arena == "host.work"
    pinned = buffers_of(policy_with(1, 1, w=(0, 100)))
    assert pinned["weights_cpu"].arena == "host.weights"
    assert "weight_stage" not in pinned


@pytest.mark.parametrize(("arena", "tier"), [("gpu.work", "gpu"), ("host.work", "cpu"), ("pageable.weights", "cpu")])
def test_every_arena_is_charged_to_a_tier(arena: str, tier: str) -> None:
    assert tier_of(arena) == tier


def test_a_batch_of_its_own_length_takes_its_own_room() -> None:
    ragged = Block((MicroBatch((0,), 4), MicroBatch((1,), 40)), 8)
    placed = Placement.of(SHAPES["facebook/opt-125m"], Policy(1, 2), ragged)
    assert [s.capacity for s in placed.cache[0]] == [11, 47]


GEMMA_3_27B = {
    "model_type": "gemma3_text",
    "hidden_size": 5376,
    "intermediate_size": 21504,
    "num_hidden_layers": 62,
    "num_attention_heads": 32,
    "num_key_value_heads": 16,
    "head_dim": 128,
    "query_pre_attn_scalar": 168,
    "sliding_window": 1024,
    "vocab_size": 262208,
    "dtype": "bfloat16",
}


def test_a_cache_holds_of_each_layer_what_its_window_reads() -> None:
    """Gemma 3 27B, 8192 tokens: of six layers five read the newest 1024."""
    shape, block = read_config(GEMMA_3_27B, "gemma-3-27b")[0], Block((MicroBatch((0, 1), 8000),), 193)
    placed = Placement.of(shape, policy_with(2, 1, w=(100, 0), cache=(30, 70)), block)
    tokens = [8192 if (depth + 1) % 6 == 0 else 1024 for depth in range(62)]
    found = sum(s.payload(tier) for row in placed.cache for s in row for tier in TIERS)
    assert found == 2 * sum(tokens) * 2 * 16 * 128 * 2  # rows, keys and values, heads, head_dim, bfloat16
    assert found == 2 * shape.cache_bytes(8192) < found * 62 * 8192 / sum(tokens) / 3


# -- budgets ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tier", TIERS)
def test_the_peak_fits_and_a_byte_less_is_refused(tier: str) -> None:
    problem = Problem.of(SHAPES["facebook/opt-125m"], prompt_len=16, gen_len=4)
    policy = policy_with(2, 2, w=(30, 40), cache=(30, 40), act=(30, 40))
    need = peak_bytes(problem, policy, ZigZag())
    smallest = {name: problem.budget_for(name, nbytes) for name, nbytes in need.items()}
    exact = problem.model_copy(update={"hardware": problem.hardware.with_budget(**smallest)})
    refuse_over_budget(need, exact)
    tight = {**smallest, tier: smallest[tier] - 1}
    short = problem.model_copy(update={"hardware": problem.hardware.with_budget(**tight)})
    with pytest.raises(InfeasiblePlan) as refusal:
        Plan.of(short, policy)
    assert refusal.value.code == "FP401"
    assert refusal.value.binding == (tier,)
    assert refusal.value.smallest_budget_bytes[tier] == smallest[tier]
    assert f"--{tier}-mem" in refusal.value.fix


@settings(max_examples=50, deadline=None)
@given(policies, st.lists(st.integers(1, 30), min_size=1, max_size=12))
def test_the_peak_is_that_of_the_largest_block(policy: Policy, lens: list[int]) -> None:
    shape = SHAPES["facebook/opt-125m"]
    problem = Problem.of(shape, gen_len=3, prompt_lens=tuple(lens))
    peaks = peak_bytes(problem, policy, ZigZag())
    for block in fill_blocks(problem.workload, policy):
        for tier, nbytes in Layout.of(Placement.of(shape, policy, block)).tier_bytes().items():
            assert nbytes <= peaks[tier]
