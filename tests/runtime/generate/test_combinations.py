"""Every two features of a policy work together, or are refused by name before anything is allocated.

`docs/combinations.md` is what planning says of each pair; here every pair is run, too.  To write the page anew:

    FLEXPLAN_WRITE_PAGES=1 python -m pytest tests/runtime/generate/test_combinations.py -k page
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from flexplan_runtime import ExecutionEnv, OffloadedLM
from flexplan_runtime.embedded import tiny_opt_path, tiny_opt_prompts
from tokenizers import Tokenizer

from flexplan.errors import InfeasiblePlan, PolicyError
from flexplan.hardware import hardware_from
from flexplan.model import read_model
from flexplan.plan import Plan
from flexplan.plan.planner import check_plan
from flexplan.policy import CompressionConfig, Policy, field_names
from flexplan.problem import Problem, Workload

PAGE = Path(__file__).parents[3] / "docs" / "combinations.md"
GEN_LEN = 4
LOSSY = ("compress_weight", "comp_weight_config", "compress_cache", "comp_cache_config", "attn_sparsity")


def placed(what: str, gpu: float, cpu: float) -> dict[str, Any]:
    return {f"{what}_gpu_percent": gpu, f"{what}_cpu_percent": cpu}


SHARES = {"gpu": (100.0, 0.0), "cpu": (0.0, 100.0), "disk": (0.0, 0.0), "all three": (30.0, 40.0)}
FEATURES: dict[str, dict[str, Any]] = {
    **{f"weights on {tier}": placed("w", *shares) for tier, shares in SHARES.items()},
    **{f"cache on {tier}": placed("cache", *shares) for tier, shares in SHARES.items()},
    **{f"activations on {tier}": placed("act", *shares) for tier, shares in SHARES.items()},
    "overlap off": {"overlap": False},
    "sep_layer off": {"sep_layer": False},
    "pin_weight off": {"pin_weight": False},
    "cpu_cache_compute on": {"cpu_cache_compute": True},
    "cache_stream_percent 50": {"cpu_cache_compute": True, "cache_stream_percent": 50.0},
    "compress_weight on": {"compress_weight": True, "comp_weight_config": CompressionConfig(4, 16, 0)},
    "compress_cache on": {"compress_cache": True, "comp_cache_config": CompressionConfig(4, 16, 2)},
    "attn_sparsity 0.5": {"attn_sparsity": 0.5},
    "schedule rowwise": {"schedule": "rowwise"},
}
MIXED = (
    {"gpu_batch_size": 2, "num_gpu_batches": 2} | placed("w", 30, 40) | placed("cache", 30, 40) | placed("act", 30, 40)
)
IN_MEMORY = MIXED | placed("cache", 50, 50)
SURROUNDINGS = {"yes": MIXED, "memory": IN_MEMORY}  # the mark of a pair is the first in which it is accepted
REFUSED = "no"

INTRODUCTION = """\
# Which features of a policy go together

Every two features, planned and then run on the embedded model; `tests/runtime/generate/test_combinations.py` writes
this page and holds it true. What is not named in a pair is as in the policy around it: two micro-batches of two
prompts, weights, cache and activations each 30 % on the GPU, 40 % on the host and 30 % on disk, `overlap`,
`sep_layer` and `pin_weight` on, the rest off, schedule `zigzag`.

- **yes**: works; the tokens are those of the same weights, cache and values read with everything on the GPU.
- **memory**: works where the cache is not on disk (half of it on the GPU, half on the host); refused in the policy
  above.
- **no**: refused before anything is allocated, with the fields named (below).
- **·**: two values of one field.
"""


@dataclass(frozen=True)
class Verdict:
    """What planning says of a pair: its mark, the policy that was accepted, and each refusal on the way."""

    mark: str
    policy: Policy | None
    schedule: str
    refusals: tuple[PolicyError | InfeasiblePlan, ...]


def pairs() -> Iterator[tuple[str, str]]:
    """Every two features that are not values of one field."""
    for first, second in combinations(FEATURES, 2):
        if not FEATURES[first].keys() & FEATURES[second].keys():
            yield first, second


@cache
def prompts() -> list[list[int]]:
    """Ragged, more than a block of them, and never nearly tied."""
    tokenizer = Tokenizer.from_file(str(tiny_opt_path() / "tokenizer.json"))
    return [tokenizer.encode(text).ids for text in tiny_opt_prompts()[:5]]


@cache
def verdict(first: str, second: str) -> Verdict:
    refusals = []
    for mark, around in SURROUNDINGS.items():
        fields = around | FEATURES[first] | FEATURES[second]
        schedule = fields.pop("schedule", "zigzag")
        try:
            policy = Policy(**fields)
            check_plan(Plan.of(problem(), policy, schedule=schedule))
        except (PolicyError, InfeasiblePlan) as error:
            refusals.append(error)
        else:
            return Verdict(mark, policy, schedule, tuple(refusals))
    return Verdict(REFUSED, None, schedule, tuple(refusals))


@cache
def problem() -> Problem:
    shape = read_model(str(tiny_opt_path()))[0].with_dtype(4)
    workload = Workload(prompt_lens=tuple(map(len, prompts())), gen_len=GEN_LEN)
    return Problem(model=shape, hardware=hardware_from("cpu-host"), workload=workload)


def tokens(policy: Policy, schedule: str, place: Path) -> Any:
    with (
        ExecutionEnv.create(place, device="cpu", num_threads=1) as env,
        OffloadedLM(tiny_opt_path(), env, tiny_opt_path(), policy, schedule=schedule, dtype="float32") as lm,
    ):
        return lm.generate(prompts(), max_new_tokens=GEN_LEN).tolist()


@cache
def expected(lossy: Policy, place: Path) -> Any:
    return tokens(lossy, "zigzag", place)


# -- the page ----------------------------------------------------------------------------------------------------------
def page() -> str:
    names = list(FEATURES)
    lines = [INTRODUCTION, "|   |   | " + " | ".join(str(n + 1) for n in range(len(names) - 1)) + " |"]
    lines.append("|---|---|" + "---|" * (len(names) - 1))
    for n, name in enumerate(names):
        cells = [mark(names[other], name) if other < n else "" for other in range(len(names) - 1)]
        lines.append(f"| {n + 1} | {name} | " + " | ".join(cells) + " |")
    lines.append("\n## What is refused\n")
    for code, message, fix in sorted({(e.code, e.message, e.fix) for pair in pairs() for e in verdict(*pair).refusals}):
        lines.append(f"- `{code}`: {message}. To fix: {fix}.")
    return "\n".join(lines) + "\n"


def mark(first: str, second: str) -> str:
    return verdict(first, second).mark if (first, second) in set(pairs()) else "·"


def test_page_is_what_planning_says() -> None:
    if os.environ.get("FLEXPLAN_WRITE_PAGES"):
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page()


# -- and true ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pair", list(pairs()), ids=" and ".join)
def test_pair_is_run_or_refused_by_name(
    pair: tuple[str, str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = verdict(*pair)
    for refusal in found.refusals:
        assert any(name in refusal.message for name in field_names()), refusal
        assert any(name in refusal.fix for name in field_names()), refusal
    if found.policy is not None:
        lossy = Policy(4, 1, **{name: getattr(found.policy, name) for name in LOSSY})
        assert tokens(found.policy, found.schedule, tmp_path) == expected(lossy, tmp_path_factory.getbasetemp() / "one")
    for around in SURROUNDINGS.values():
        refused_before_anything_is_allocated(around | FEATURES[pair[0]] | FEATURES[pair[1]], found, tmp_path)


def refused_before_anything_is_allocated(fields: dict[str, Any], found: Verdict, place: Path) -> None:
    """If planning refused it, so does opening the model, with the same code."""
    schedule = fields.pop("schedule", "zigzag")
    try:
        policy = Policy(**fields)
    except PolicyError as error:
        assert error.code in {refusal.code for refusal in found.refusals}
        return
    if policy == found.policy or len(found.refusals) == 0:
        return
    with ExecutionEnv.create(place / "refused", device="cpu") as env:
        with pytest.raises(PolicyError) as error:
            OffloadedLM(tiny_opt_path(), env, tiny_opt_path(), policy, schedule=schedule)
        assert error.value.code in {refusal.code for refusal in found.refusals}
        assert not any(env.ledger.held.values())
        assert not list((place / "refused").glob("*"))
