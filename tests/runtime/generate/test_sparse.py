"""Sparse attention: whatever the placement, the tokens are those of transformers with the same choice of values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from policies import (
    NEAR_TIE,
    Case,
    Reference,
    generated,
    opened,
    random_prompts,
    reference,
    text_prompts,
)
from rounded import PackedCache
from tiny_models import CONFIGS, saved
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
from transformers.masking_utils import eager_mask

from flexplan.errors import PolicyError
from flexplan.policy import Policy
from flexplan.testing import policy_with

SHARES = (0.1, 0.4, 0.9)
POLICIES = {
    "on the gpu": Policy(3, 2),
    "on the host": Policy(3, 2, cache_gpu_percent=0.0, cache_cpu_percent=100.0, cpu_cache_compute=True),
    "streamed": Policy(3, 2, cache_gpu_percent=0.0, cache_cpu_percent=100.0),
    "streamed in part": policy_with(2, 3, w=(0.0, 100.0), cache=(50.0, 50.0), sep_layer=False),
    "a few streamed": policy_with(1, 4, w=(50.0, 50.0), cache=(95.0, 5.0), act=(0.0, 100.0)),
    "streamed, no overlap": policy_with(2, 2, w=(50.0, 50.0), cache=(30.0, 70.0), act=(30.0, 30.0), overlap=False),
    "streamed, packed": policy_with(2, 2, w=(50.0, 20.0), cache=(30.0, 70.0), compress_cache=True),
    "streamed, one batch": policy_with(7, 1, w=(0.0, 0.0), cache=(0.0, 100.0), act=(0.0, 0.0)),
    "on both": policy_with(2, 3, w=(0.0, 100.0), cache=(50.0, 50.0), cpu_cache_compute=True),
    "on both, sep_layer": policy_with(2, 3, w=(50.0, 50.0), cache=(50.0, 50.0), sep_layer=True, cpu_cache_compute=True),
    "no overlap": policy_with(
        2, 2, w=(50.0, 50.0), cache=(50.0, 50.0), act=(0.0, 100.0), overlap=False, cpu_cache_compute=True
    ),
    "packed": policy_with(2, 2, w=(50.0, 50.0), cache=(50.0, 50.0), compress_cache=True, cpu_cache_compute=True),
}


def sparse(share: float) -> Any:
    """transformers' attention that reads, in decoding, the values of the old positions with the largest weights."""

    def attend(module: Any, q: Any, k: Any, v: Any, mask: Any, scaling: float, **_: Any) -> Any:
        groups = q.shape[1] // k.shape[1]
        k_all, v_all = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = q @ k_all.transpose(2, 3) * scaling
        at = torch.arange(k.shape[2])
        readable = mask[:, :, :, : k.shape[2]] if mask is not None else at <= at[-q.shape[2] :, None]
        readable = readable if readable.dtype == torch.bool else readable == 0
        readable = readable.expand(scores.shape)
        weights = scores.masked_fill(~readable, -torch.inf).softmax(-1).nan_to_num()  # padding reads nothing
        if q.shape[2] == 1:
            weights = thinned(weights, readable, share, groups)
        return (weights @ v_all).transpose(1, 2), None

    return attend


def thinned(weights: Any, readable: Any, share: float, groups: int) -> Any:
    """Only the largest of the old positions, and the newest; the query heads of a KV head choose together."""
    for row in range(weights.shape[0]):
        old = int(readable[row, 0, 0].sum()) - 1
        kept = max(1, int(share * old)) if old else 0
        for head in range(0, weights.shape[1], groups):
            together = weights[row, head : head + groups, 0, :-1].sum(0)
            chosen = torch.zeros(weights.shape[3], dtype=torch.bool)
            chosen[together.topk(kept).indices] = True
            chosen[-1] = True
            weights[row, head : head + groups, 0, ~chosen] = 0
    return weights / weights.sum(-1, keepdim=True)


def sparse_reference(directory: Path, prompts: list[list[int]], policy: Policy) -> Reference:
    """What transformers generates."""
    name = f"sparse_{policy.attn_sparsity:g}".replace(".", "_")
    AttentionInterface.register(name, sparse(policy.attn_sparsity))
    AttentionMaskInterface.register(name, eager_mask)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    model.config._attn_implementation = name
    return reference(model, prompts, gen_len=6, cache=PackedCache(policy.cache_packing(4)))


def agree(directory: Path, prompts: list[list[int]], policy: Policy, tmp_path: Path) -> None:
    case = Case(policy, num_prompts=7, gen_len=6)
    expected = sparse_reference(directory, prompts, policy)
    differing = expected.rows_that_differ(case, generated(directory, case, prompts, tmp_path))
    assert all(gap < NEAR_TIE for _, gap in differing), differing


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", POLICIES)
def test_tokens_of_the_trained_model(name: str, share: float, tiny_opt: Path, tmp_path: Path) -> None:
    agree(tiny_opt, text_prompts(tiny_opt), replace(POLICIES[name], attn_sparsity=share), tmp_path)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_query_heads_of_a_group_choose_together(family: str, tmp_path: Path) -> None:
    saved(CONFIGS[family], tmp_path / "model")
    prompts = random_prompts(CONFIGS[family].vocab_size)
    for name in ("on the gpu", "streamed in part", "on both"):
        agree(tmp_path / "model", prompts, replace(POLICIES[name], attn_sparsity=0.4), tmp_path)


@pytest.mark.parametrize("family", ["mistral with windows", "gemma3"])
def test_of_a_window_values_are_chosen_within_it(family: str, tmp_path: Path) -> None:
    """Streamed, or where they live, in rings that come round."""
    saved(CONFIGS[family], tmp_path / "model")
    prompts = random_prompts(CONFIGS[family].vocab_size)
    for name in ("on the gpu", "on the host", "streamed in part", "streamed, no overlap", "on both"):
        agree(tmp_path / "model", prompts, replace(POLICIES[name], attn_sparsity=0.5), tmp_path)


def uploaded(model: Path, policy: Policy, length: int, scratch: Path, schedule: str = "zigzag") -> list[int]:
    """Bytes that four decoding steps bring to the gpu, of rows of ``length`` tokens."""
    with opened(model, policy, scratch, schedule=schedule) as lm:
        lm.generate([[n + 5] * length for n in range(6)], max_new_tokens=5)
        return [lm.env.ledger.moved["up_bytes", i] for i in range(1, 5)]


@pytest.mark.parametrize("schedule", ["zigzag", "rowwise"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("share", SHARES)
def test_the_link_carries_all_keys_and_of_the_values_those_chosen(
    share: float, packed: bool, schedule: str, tiny_opt: Path, tmp_path: Path
) -> None:
    policy = Policy(2, 3, cache_gpu_percent=25.0, cache_cpu_percent=75.0, compress_cache=packed)
    length = 200
    dense = uploaded(tiny_opt, policy, length, tmp_path, schedule)
    thin = uploaded(tiny_opt, replace(policy, attn_sparsity=share), length, tmp_path, schedule)
    for i, (whole, found) in enumerate(zip(dense, thin, strict=True)):
        old = length + i
        assert found * 2 * old == whole * (old + int(share * old))  # every vector takes as many bytes
        assert found / whole == pytest.approx((1 + share) / 2, abs=0.005)


def test_sparse_is_not_dense(tiny_opt: Path) -> None:
    """Or the tests above would prove nothing."""
    prompts = text_prompts(tiny_opt)
    dense, thin = (sparse_reference(tiny_opt, prompts, Policy(attn_sparsity=share)).tokens for share in (1.0, 0.1))
    assert float((dense != thin).any(1).float().mean()) > 0.2


def test_values_on_disk_are_refused() -> None:
    with pytest.raises(PolicyError, match="cache_disk_percent"):
        Policy(cache_gpu_percent=50.0, attn_sparsity=0.5)
