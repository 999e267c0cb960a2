"""4 and 8 bits, and sparse attention, on a GPU: streams and compiled kernels give the tokens that the host gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flexplan_runtime import ExecutionEnv, OffloadedLM
from policies import NEAR_TIE, Case, random_prompts, text_prompts
from test_packed import DOCUMENTED, packed_cases, packed_reference
from test_sparse import POLICIES as SPARSE
from test_sparse import sparse_reference
from tiny_models import CONFIGS, saved

pytestmark = pytest.mark.gpu


def generated_on_gpu(path: Path, case: Case, prompts: Any, offload_dir: Path) -> Any:
    with (
        ExecutionEnv.create(offload_dir, device="cuda:0", deadline_s=30) as env,
        OffloadedLM(str(path), env, path, case.policy, schedule=case.schedule, dtype="float32") as lm,
    ):
        return lm.generate(prompts[: case.num_prompts], max_new_tokens=case.gen_len, pad_token_id=0)


def agree(path: Path, prompts: Any, cases: int, offload_dir: Path) -> None:
    rows = ties = 0
    for kind, group in packed_cases(cases):
        expected = packed_reference(path, prompts, kind)
        for case in group:
            differing = expected.rows_that_differ(case, generated_on_gpu(path, case, prompts, offload_dir))
            assert all(gap < NEAR_TIE for _, gap in differing), f"{case}: {kind}: {differing}"
            rows, ties = rows + case.num_prompts, ties + len(differing)
    assert ties <= max(1, rows / 50)


def test_tokens_of_the_trained_model(tiny_opt: Path, tmp_path: Path) -> None:
    agree(tiny_opt, text_prompts(tiny_opt), 40, tmp_path)


@pytest.mark.parametrize("family", ["llama", "opt post-norm, projected"])
def test_tokens_of_a_random_model(family: str, tmp_path: Path) -> None:
    saved(CONFIGS[family], tmp_path / "model")
    agree(tmp_path / "model", random_prompts(CONFIGS[family].vocab_size), 20, tmp_path)


@pytest.mark.parametrize("overlap", [True, False])
def test_documented_policy_of_the_reference(overlap: bool, tiny_opt: Path, tmp_path: Path) -> None:
    prompts = text_prompts(tiny_opt)[:8]
    case = Case(replace(DOCUMENTED, overlap=overlap), num_prompts=8)
    differing = packed_reference(tiny_opt, prompts, DOCUMENTED).rows_that_differ(
        case, generated_on_gpu(tiny_opt, case, prompts, tmp_path)
    )
    assert all(gap < NEAR_TIE for _, gap in differing)


@pytest.mark.parametrize("schedule", ["zigzag", "rowwise"])
@pytest.mark.parametrize("name", SPARSE)
def test_sparse_attention_chooses_as_on_the_host(name: str, schedule: str, tiny_opt: Path, tmp_path: Path) -> None:
    prompts = text_prompts(tiny_opt)
    for share in (0.1, 0.4):
        case = Case(replace(SPARSE[name], attn_sparsity=share), schedule, num_prompts=7, gen_len=6)
        differing = sparse_reference(tiny_opt, prompts, case.policy).rows_that_differ(
            case, generated_on_gpu(tiny_opt, case, prompts, tmp_path)
        )
        assert all(gap < NEAR_TIE for _, gap in differing), f"{case}: {differing}"
