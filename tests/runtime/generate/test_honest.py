"""Honest: shares are realised, moved bytes are the graph's, nothing on disk hides in memory, budgets hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from flexplan_runtime import ExecutionEnv, OffloadedLM
from flexplan_runtime.memory import BLOCK, Arenas, ScratchFile
from policies import Case, blocks_of, covering, opened, random_prompts, text_prompts, text_reference
from tiny_models import CONFIGS, saved

from flexplan.errors import InfeasiblePlan
from flexplan.graph import TIERS, tier_of
from flexplan.model import weight_bytes
from flexplan.placement import Layout, Placement
from flexplan.policy import Policy
from flexplan.testing import policy_with
from flexplan.units import round_up

MOVED = ("up_bytes", "down_bytes", "read_bytes", "write_bytes")
POLICIES = covering(60, seed=7)
SPARSE = [
    Case(policy_with(2, 3, w=(50.0, 50.0), cache=(0.0, 100.0), act=(50.0, 50.0), attn_sparsity=0.4), num_prompts=7),
    Case(
        policy_with(2, 2, w=(100.0, 0.0), cache=(60.0, 40.0), attn_sparsity=0.1, compress_cache=True, sep_layer=False),
        num_prompts=9,
    ),
    Case(
        policy_with(3, 2, w=(0.0, 0.0), cache=(30.0, 70.0), act=(0.0, 0.0), attn_sparsity=0.9, overlap=False),
        "rowwise",
        num_prompts=5,
    ),
    Case(
        policy_with(2, 3, w=(0.0, 100.0), cache=(40.0, 60.0), cpu_cache_compute=True, attn_sparsity=0.4), num_prompts=6
    ),
    Case(Policy(4, 1, attn_sparsity=0.4), num_prompts=4),
]
UNEVEN = ((12.5, 3.1), (71.3, 20.0), (20.0, 79.9), (26.0, 0.0), (0.0, 8.3), (33.3, 33.3))  # nothing a tensor's size
SHARES = covering(40, seed=8, w=UNEVEN, cache=UNEVEN, fill=("full", "partial"))


def ids_of(cases: Sequence[Case]) -> dict[str, Any]:
    return {"argvalues": cases, "ids": map(str, cases)}


def asked(policy: Policy, what: str) -> list[float]:
    return [100 * share for share in policy.shares(what)]


# -- shares ----------------------------------------------------------------------------------------------------------
def held_payload(lm: OffloadedLM) -> list[int]:
    """Bytes of weights by tier: what the ledger says is held, less what aligning pieces and layers cost."""
    held, placed = lm.env.ledger.held, lm._model.placement
    found = []
    for tier in TIERS:
        arenas = [name for name in held if tier_of(name) == tier and name.endswith(".weights")]
        padding, end = 0, 0
        for w in placed.weights:
            step = BLOCK if tier == "disk" or "host.weights" in arenas else 256  # a layer is page-locked by itself
            end = round_up(end, step) + w.part_bytes[tier]
        padding = round_up(end, BLOCK) - sum(w.payload(tier) for w in placed.weights)
        found.append(sum(held[name] for name in arenas) - padding)
    return found


@pytest.mark.parametrize("case", **ids_of(SHARES))
def test_realised_shares_are_the_asked_ones(case: Case, tiny_opt: Path, tmp_path: Path) -> None:
    prompts = text_prompts(tiny_opt)[: case.num_prompts]
    with opened(tiny_opt, case.policy, tmp_path, schedule=case.schedule) as lm:
        total = weight_bytes(lm.shape)
        found = held_payload(lm)
        assert sum(found) == total
        for share, nbytes in zip(asked(case.policy, "w"), found, strict=True):
            assert abs(100 * nbytes / total - share) <= 1
        lm.generate(prompts, max_new_tokens=case.gen_len)
        (block,) = blocks_of(lm, prompts, case.gen_len)
        assert_cache_shares(block.placement, case.policy)
        assert_stored_shares(lm, block.placement, case.policy)
        assert_arenas_are_the_placement(lm, block.placement)


def allowed_points(p: Placement, policy: Policy) -> float:
    """A point, or the part of a grain that rounding cannot help: a half, two thirds where three tiers share."""
    segments = [s for row in p.cache for s in row]
    part = 2 / 3 if all(policy.shares("cache")) else 1 / 2
    return max(1, 100 * part * max(s.capacity for s in segments) / sum(s.num_grains * s.capacity for s in segments))


def assert_cache_shares(p: Placement, policy: Policy) -> None:
    segments = [s for row in p.cache for s in row]
    total, allowed = sum(s.num_grains * s.capacity for s in segments), allowed_points(p, policy)
    for n, share in enumerate(asked(policy, "cache")):
        found = 100 * sum(s.grains[n] * s.capacity for s in segments) / total
        assert abs(found - share) <= allowed + 1e-9


def assert_stored_shares(lm: OffloadedLM, p: Placement, policy: Policy) -> None:
    """What was counted as it was put there agrees."""
    realised = lm.realised()
    for found, share in zip(realised["w"], asked(policy, "w"), strict=True):
        assert abs(found - share) <= 1
    if "cache" not in realised:  # a single token leaves none
        assert p.block.gen_len == 1
        return
    for found, share in zip(realised["cache"], asked(policy, "cache"), strict=True):
        assert abs(found - share) <= allowed_points(p, policy) + 1e-9


def assert_arenas_are_the_placement(lm: OffloadedLM, p: Placement) -> None:
    """What the ledger holds is what was placed, and the cache's slots are no larger than its grains need."""
    held = {name: nbytes for name, nbytes in lm.env.ledger.held.items() if not name.endswith(".weights")}
    assert held == {name: nbytes for name, nbytes in Layout.of(p).arena_bytes.items() if not name.endswith(".weights")}
    slots = p.live * p.shape.num_layers
    for n, tier in enumerate(TIERS[:2]):
        sizes = [0] * slots
        for s in (s for row in p.cache for s in row):
            at = (s.k * p.shape.num_layers + s.depth) % slots
            sizes[at] = max(sizes[at], s.grains[n] * s.capacity * s.pair_bytes)
        buffer = Layout.of(p).buffers.get(f"cache_{tier}")
        assert (list(buffer.sizes) if buffer else [0] * slots) == sizes


def test_shares_are_even_over_the_layers(tiny_opt: Path, tmp_path: Path) -> None:
    """A pass streams as much of each layer: a fifth of the whole is not two layers of ten."""
    with opened(tiny_opt, Policy(w_gpu_percent=20.0, w_cpu_percent=45.0, sep_layer=False), tmp_path) as lm:
        for w in lm._model.placement.weights[1:-1]:
            total = sum(w.payload(tier) for tier in TIERS)
            for share, tier in zip((20, 45, 35), TIERS, strict=True):
                assert abs(100 * w.payload(tier) / total - share) < 1


# -- bytes -----------------------------------------------------------------------------------------------------------
def graphs_bytes(lm: OffloadedLM, prompts: Sequence[Sequence[int]], gen_len: int) -> Counter[tuple[str, int]]:
    """What the tasks of the graphs say that they move, by resource and token."""
    found: Counter[tuple[str, int]] = Counter()
    for block in blocks_of(lm, prompts, gen_len):
        for sweep in block.graph.sweeps():
            for task in sweep.tasks:
                for resource in MOVED:
                    found[resource, task.i] += getattr(task.work, resource)
    return +found


@pytest.mark.parametrize("case", **ids_of([*POLICIES, *SPARSE]))
def test_bytes_that_move_are_the_graphs(case: Case, tiny_opt: Path, tmp_path: Path) -> None:
    prompts = text_prompts(tiny_opt)[: case.num_prompts]
    with opened(tiny_opt, case.policy, tmp_path, schedule=case.schedule) as lm:
        lm.generate(prompts, max_new_tokens=case.gen_len)
        moved = {key: nbytes for key, nbytes in lm.env.ledger.moved.items() if key[0] in MOVED}
        assert +Counter(moved) == graphs_bytes(lm, prompts, case.gen_len)
        others = {resource for resource, _ in lm.env.ledger.moved} - set(MOVED)
        assert others <= {"gather"}


def test_rows_gathered_from_disk_are_counted_apart_and_bounded(tmp_path: Path) -> None:
    """Which rows of the token table are read is the text's business; no more than two blocks for each token."""
    saved(CONFIGS["llama"], tmp_path / "model")
    prompts = random_prompts(99, 6)
    with opened(tmp_path / "model", policy_with(2, 3, w=(0.0, 0.0)), tmp_path) as lm:
        lm.generate(prompts, max_new_tokens=3)
        moved = lm.env.ledger.moved
        padded = 2 * sum(max(len(a), len(b)) for a, b in zip(*[iter(sorted(prompts, key=len))] * 2, strict=True))
        assert 0 < moved["gather", 0] <= 2 * BLOCK * padded
        for i in (1, 2):
            assert 0 < moved["gather", i] <= 2 * BLOCK * len(prompts)


def test_weights_on_disk_are_read_again_in_every_pass(tiny_opt: Path, tmp_path: Path) -> None:
    with opened(tiny_opt, policy_with(2, 2, w=(0.0, 0.0), overlap=False), tmp_path) as lm:
        lm.generate(text_prompts(tiny_opt, 4), max_new_tokens=3)
        for i in range(3):
            assert lm.env.ledger.moved["read_bytes", i] >= weight_bytes(lm.shape)


def test_what_is_on_disk_is_not_in_memory(tmp_path: Path) -> None:
    """Everything on disk: of a deep model, memory holds a few layers, the cache of a few, and nothing else."""
    config = type(CONFIGS["llama"])(**CONFIGS["llama"].to_dict() | {"num_hidden_layers": 40})
    saved(config, tmp_path / "model")
    prompts = [[n + 1] * 20 for n in range(8)]
    with opened(tmp_path / "model", policy_with(4, 2, w=(0.0, 0.0), cache=(0.0, 0.0), act=(0.0, 0.0)), tmp_path) as lm:
        lm.generate(prompts, max_new_tokens=3)
        held = lm.env.ledger.held
        cache = lm.shape.kv_bytes_per_token * 22 * 8
        in_memory = sum(n for name, n in held.items() if tier_of(name) != "disk" and name != "gpu.workspace")
        assert not {"gpu.weights", "host.weights", "pageable.weights"} & set(held)
        assert held["disk.weights"] >= weight_bytes(lm.shape)
        assert held["disk.work"] >= cache
        assert in_memory < (weight_bytes(lm.shape) + cache) / 3


# -- budgets ---------------------------------------------------------------------------------------------------------
THREE_TIERS = policy_with(2, 2, w=(40.0, 30.0), cache=(40.0, 30.0), act=(40.0, 30.0))


def need(model: Path, scratch: Path) -> dict[str, int]:
    """Bytes of each tier that a run takes."""
    with opened(model, THREE_TIERS, scratch) as lm:
        lm.generate(text_prompts(model, 4), max_new_tokens=4)
        held = lm.env.ledger.held
        return {tier: sum(n for name, n in held.items() if tier_of(name) == tier) for tier in TIERS}


def count_allocations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of arenas as they are allocated."""
    seen: list[str] = []
    memory, reserve = Arenas._memory, ScratchFile._reserve

    def spy_memory(self: Arenas, name: str, nbytes: int) -> Any:
        seen.append(name)
        return memory(self, name, nbytes)

    def spy_reserve(self: ScratchFile, directory: Path) -> None:
        seen.append("disk")
        reserve(self, directory)

    monkeypatch.setattr(Arenas, "_memory", spy_memory)
    monkeypatch.setattr(ScratchFile, "_reserve", spy_reserve)
    return seen


def test_the_very_bytes_that_are_needed_are_enough(tiny_opt: Path, tmp_path: Path) -> None:
    budgets = {f"{tier}_mem": nbytes for tier, nbytes in need(tiny_opt, tmp_path).items()}
    with opened(tiny_opt, THREE_TIERS, tmp_path, **budgets) as lm:
        output = lm.generate(text_prompts(tiny_opt, 4), max_new_tokens=4, pad_token_id=0)
    assert torch.equal(output, text_reference(tiny_opt).expected(Case(THREE_TIERS, num_prompts=4)))


@pytest.mark.parametrize("tier", TIERS)
def test_a_page_less_is_refused_before_anything_is_allocated(
    tier: str, tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = need(tiny_opt, tmp_path)[tier] - BLOCK
    with opened(tiny_opt, THREE_TIERS, tmp_path, **{f"{tier}_mem": budget}) as lm:
        held, allocated = dict(lm.env.ledger.held), count_allocations(monkeypatch)
        with pytest.raises(InfeasiblePlan) as refusal:
            lm.generate(text_prompts(tiny_opt, 4), max_new_tokens=4)
        assert refusal.value.binding == (tier,)
        assert refusal.value.exit_code == 3
        assert "gpu_batch_size" in refusal.value.fix
        assert lm.env.ledger.held == held
        assert lm.env.ledger.moved.total() == 0
        assert allocated == []
    assert lm.env.ledger.held == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tier", TIERS)
def test_weights_that_do_not_fit_are_refused_before_anything_is_allocated(
    tier: str, tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocated = count_allocations(monkeypatch)
    with ExecutionEnv.create(tmp_path, device="cpu", **{f"{tier}_mem": 100 * BLOCK}) as env:
        with pytest.raises(InfeasiblePlan) as refusal:
            OffloadedLM(tiny_opt, env, tiny_opt, THREE_TIERS, dtype="float32")
        assert refusal.value.binding == (tier,)
        assert env.ledger.held == {}
    assert allocated == []


def test_a_smaller_block_runs_after_a_refusal(tiny_opt: Path, tmp_path: Path) -> None:
    budget = need(tiny_opt, tmp_path)["gpu"] - BLOCK
    with opened(tiny_opt, THREE_TIERS, tmp_path, gpu_mem=budget) as lm:
        with pytest.raises(InfeasiblePlan):
            lm.generate(text_prompts(tiny_opt, 4), max_new_tokens=4)
        output = lm.generate(text_prompts(tiny_opt, 2), max_new_tokens=4, pad_token_id=0)
    assert torch.equal(output, text_reference(tiny_opt).expected(Case(THREE_TIERS, num_prompts=2)))
