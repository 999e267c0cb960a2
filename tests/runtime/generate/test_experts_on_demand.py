"""Experts on demand: a decoding pass sends those that routers chose, and no others, and tokens are the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flexplan_runtime import ExecutionEnv, OffloadedLM
from flexplan_runtime.models.mixture import Mixture
from policies import NEAR_TIE, Case, generated, opened, random_prompts, reference
from rounded import packed_reference
from tiny_models import CONFIGS, saved

from flexplan.errors import PolicyError
from flexplan.policy import CompressionConfig
from flexplan.testing import policy_with

GEN_LEN = 6
FAMILIES = {"mixtral": (4, 2), "qwen3 with experts": (6, 2), "gpt-oss": (4, 2), "deepseek v2": (6, 2)}
ON_HOST = policy_with(3, 1, w=(0.0, 100.0), sep_layer=True, experts_on_demand=True)
POLICIES = {
    "on the host": ON_HOST,
    "no overlap": replace(ON_HOST, overlap=False),
    "gpu and host": policy_with(2, 1, w=(45.0, 55.0), act=(0.0, 100.0), sep_layer=True, experts_on_demand=True),
    "three tiers": policy_with(1, 1, w=(20.0, 40.0), cache=(30.0, 40.0), sep_layer=True, experts_on_demand=True),
    "attention on the host": replace(
        ON_HOST, cache_gpu_percent=0.0, cache_cpu_percent=100.0, cpu_cache_compute=True, act_gpu_percent=50.0
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    directory, prompts = tmp_path / "model", random_prompts(CONFIGS[name].vocab_size)
    expected = reference(saved(CONFIGS[name], directory), prompts, gen_len=GEN_LEN)
    for policy in POLICIES.values():
        case = Case(policy, num_prompts=7, gen_len=GEN_LEN)
        differing = expected.rows_that_differ(case, generated(directory, case, prompts, tmp_path))
        assert all(gap < NEAR_TIE for _, gap in differing), f"{case}: {differing}"


@pytest.mark.parametrize("config", [CompressionConfig(4, 16, 0), CompressionConfig(8, 16, 1)])
def test_packed_experts_are_sent_and_unpacked(config: CompressionConfig, tmp_path: Path) -> None:
    directory, prompts = tmp_path / "model", random_prompts(CONFIGS["mixtral"].vocab_size)
    saved(CONFIGS["mixtral"], directory)
    for name in ("on the host", "three tiers"):
        policy = replace(POLICIES[name], compress_weight=True, comp_weight_config=config)
        case = Case(policy, num_prompts=5)
        expected = packed_reference(directory, prompts, policy)
        differing = expected.rows_that_differ(case, generated(directory, case, prompts, tmp_path))
        assert all(gap < NEAR_TIE for _, gap in differing), f"{case}: {differing}"


# -- what the link carries ---------------------------------------------------------------------------------------------
@contextmanager
def chosen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[set[int]]]:
    """What routers choose from here on, step after step."""
    found: list[set[int]] = []
    routes = Mixture.routes

    def noted(self: Mixture, w: Any, hidden: Any) -> Any:
        gates, experts = routes(self, w, hidden)
        found.append(set(experts.flatten().tolist()))
        return gates, experts

    with monkeypatch.context() as patch:
        patch.setattr(Mixture, "routes", noted)
        yield found


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", ["on the host", "gpu and host"])
def test_the_link_carries_the_chosen_experts_and_no_others(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, prompts = tmp_path / "model", random_prompts(CONFIGS[name].vocab_size)[:1]
    saved(CONFIGS[name], directory)
    passes, moved = range(GEN_LEN), {}
    for on_demand in (False, True):
        policy = replace(POLICIES[kind], experts_on_demand=on_demand)
        with opened(directory, policy, tmp_path) as lm, chosen(monkeypatch) as found:
            lm.generate(prompts, max_new_tokens=GEN_LEN)
            moved[on_demand] = [lm.env.ledger.moved["up_bytes", i] for i in passes]
            mixtures = [w for w in lm._model.placement.weights if w.expert_spans]
    assert len(found) == len(mixtures) * (GEN_LEN - 1)
    sent, spared = [0 for _ in passes], [0 for _ in passes]
    for n, experts in enumerate(found):
        i, at = divmod(n, len(mixtures))
        for expert, (lo, hi) in mixtures[at].expert_spans.items():
            (sent if expert in experts else spared)[i + 1] += hi - lo
    assert sum(spared) > 0
    middle = passes[1:-1]  # the first one sends for the second, too, and the last one for none
    assert len({moved[True][i] - sent[i] for i in middle}) == 1
    assert all(moved[True][i] < moved[False][i] - 0.8 * spared[i] for i in middle)


def test_what_cannot_wait_for_its_router_is_refused_by_name(tmp_path: Path, tiny_opt: Path) -> None:
    for fields in ({"num_gpu_batches": 2}, {"sep_layer": False}, {"pin_weight": False}):
        with pytest.raises(PolicyError, match=rf"experts_on_demand with {next(iter(fields))}"):
            replace(ON_HOST, **fields)
    saved(CONFIGS["mixtral"], tmp_path / "model")
    for model, schedule, code in ((tiny_opt, "zigzag", "FP221"), (tmp_path / "model", "rolling", "FP217")):
        with (
            pytest.raises(PolicyError, match="experts_on_demand") as refusal,
            opened(model, ON_HOST, tmp_path, schedule=schedule) as lm,
        ):
            lm.generate([[5, 6]], max_new_tokens=2)
        assert refusal.value.code == code


@pytest.mark.gpu
@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_on_a_gpu_are_the_same(name: str, tmp_path: Path) -> None:
    """Long enough for steps to be captured: what is replayed computes with what was sent for this token."""
    directory, prompts, gen_len = tmp_path / "model", random_prompts(CONFIGS[name].vocab_size)[:5], 24
    expected = reference(saved(CONFIGS[name], directory), prompts, gen_len=gen_len)
    for policy in POLICIES.values():
        moved = {}
        for on_demand in (False, True):
            given = replace(policy, experts_on_demand=on_demand)
            with (
                ExecutionEnv.create(tmp_path, device="cuda:0", deadline_s=60) as env,
                OffloadedLM(str(directory), env, directory, given, dtype="float32") as lm,
            ):
                output = lm.generate(prompts, max_new_tokens=gen_len, pad_token_id=0)
                moved[on_demand] = sum(env.ledger.moved["up_bytes", i] for i in range(gen_len))
            differing = expected.rows_that_differ(Case(given, num_prompts=5, gen_len=gen_len), output)
            assert all(gap < NEAR_TIE for _, gap in differing), f"{given}: {differing}"
        assert moved[True] < moved[False]
