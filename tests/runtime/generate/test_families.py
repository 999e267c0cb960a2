"""Every family over a few policies: greedy tokens are transformers', whatever a layer is made of."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import pytest
from flexplan_runtime import ExecutionEnv, OffloadedLM
from policies import NEAR_TIE, Case, covering, generated, random_prompts, reference
from rounded import packed_reference
from tiny_models import CONFIGS, saved

from flexplan.model import ModelShape, read_config
from flexplan.policy import CompressionConfig, Policy
from flexplan.testing import policy_with

POLICIES = int(os.environ.get("FLEXPLAN_FAMILY_POLICIES", "6"))  # of each family
# what test_grid.py does not have over its hundreds of policies
FAMILIES = [
    "mistral with windows",
    "gemma",
    "gemma2",
    "gemma3",
    "granite",
    "olmo2",
    "starcoder2",
    "starcoder2 without biases, untied",
    "gpt-neox",
    "gpt-neox, one after the other",
    "deepseek v2",
    "deepseek v2 with groups, biases",
    "deepseek v3",
    "deepseek v3, in halves",
    "bloom",
    "bloom untied, six heads",
    "falcon",
    "falcon, groups",
    "falcon, groups and one norm",
    "falcon, slopes",
    "gpt2",
    "gpt2, plain scores",
    "qwen3 with experts",
    "qwen3 with experts, windows",
    "glm4 with experts",
    "glm4 with groups",
    "gpt-oss",
    "phi3",
    "phi4, longrope",
]
CASES = [
    Case(Policy(4, 2, sep_layer=False), num_prompts=9, gen_len=6),
    Case(
        policy_with(2, 3, w=(0, 0), cache=(0, 100), act=(0, 100), cpu_cache_compute=True, sep_layer=False),
        "rowwise",
        num_prompts=7,
        gen_len=6,
    ),
    Case(policy_with(3, 2, w=(30.0, 40.0), cache=(30.0, 40.0), act=(30.0, 40.0), sep_layer=True), gen_len=6),
    Case(
        policy_with(2, 2, w=(0.0, 100.0), cache=(30.0, 30.0), act=(0.0, 0.0), sep_layer=False, cpu_cache_compute=True),
        num_prompts=5,
        gen_len=6,
    ),
    # seats are taken at different times, and rings of windows come round; each head by its home, layers in two halves
    Case(Policy(2, 2, 0, 100, 50, 50, cpu_cache_compute=True, admit_tokens=9), "rolling", num_prompts=9, gen_len=6),
    Case(Policy(3, 2, 30, 40, overlap=False, sep_layer=False, admit_tokens=5), "rolling", num_prompts=11, gen_len=6),
]

SCHEDULES = "zigzag", "rowwise", "rolling"
FOUR_BITS = (  # weights, the cache, both
    {"compress_weight": True, "comp_weight_config": CompressionConfig(4, 16, 0)},
    {"compress_cache": True, "comp_cache_config": CompressionConfig(4, 8, 2)},
    {
        "compress_weight": True,
        "comp_weight_config": CompressionConfig(4, 16, 1),
        "compress_cache": True,
        "comp_cache_config": CompressionConfig(4, 4, 2),
    },
)


def cases(name: str, shape: ModelShape) -> list[Case]:
    """``POLICIES`` of them: the fixed ones, then some that show many pairs of values, a quarter in 4 bits."""
    more = max(0, POLICIES - len(CASES))
    further = list(map(as_it_rolls, covering(more, crc32(name.encode()), schedule=SCHEDULES))) if more else []
    for n in range(0, more, 4):
        policy = replace(further[n].policy, **FOUR_BITS[n // 4 % len(FOUR_BITS)])
        further[n] = replace(further[n], policy=policy)
    return list(unsplit([*CASES[:POLICIES], *further], shape))


def as_it_rolls(case: Case) -> Case:
    """With what a rolling schedule does not take left out, where it is one."""
    if case.schedule != "rolling":
        return case
    gpu, p = case.policy.cache_gpu_percent, case.policy
    rest = {"act_gpu_percent": 100.0, "act_cpu_percent": 0.0, "cpu_cache_compute": gpu < 100}
    return replace(case, policy=replace(p, cache_cpu_percent=100 - gpu, admit_tokens=9, **rest))


def unsplit(cases: list[Case], shape: ModelShape) -> Iterator[Case]:
    """With layers whole where a model's halves are one step."""
    for case in cases:
        whole = shape.parallel and case.policy.sep_layer
        yield replace(case, policy=replace(case.policy, sep_layer=False)) if whole else case


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_are_those_of_transformers_but_at_near_ties(name: str, tmp_path: Path) -> None:
    directory, prompts = tmp_path / "model", random_prompts(CONFIGS[name].vocab_size)
    plain = reference(saved(CONFIGS[name], directory), prompts, gen_len=6)
    for case in cases(name, read_config(directory)[0]):
        packed = case.policy.compress_weight or case.policy.compress_cache
        expected = packed_reference(directory, prompts, case.policy) if packed else plain
        differing = expected.rows_that_differ(case, generated(directory, case, prompts, tmp_path))
        assert all(gap < NEAR_TIE for _, gap in differing), f"{case}: {differing}"
        assert len(differing) <= 1, case


@pytest.mark.gpu
@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_on_a_gpu_are_the_same(name: str, tmp_path: Path) -> None:
    """In captured steps where a policy has such, by the kernels that a family's attention and experts have."""
    directory, prompts = tmp_path / "model", random_prompts(CONFIGS[name].vocab_size)
    expected = reference(saved(CONFIGS[name], directory), prompts, gen_len=6)
    for case in unsplit(CASES, read_config(directory)[0]):
        with (
            ExecutionEnv.create(tmp_path, device="cuda:0", deadline_s=60) as env,
            OffloadedLM(str(directory), env, directory, case.policy, schedule=case.schedule, dtype="float32") as lm,
        ):
            output = lm.generate(prompts[: case.num_prompts], max_new_tokens=case.gen_len, pad_token_id=0)
        differing = expected.rows_that_differ(case, output)
        assert all(gap < NEAR_TIE for _, gap in differing), f"{case}: {differing}"
