"""Policies to try, the models to try them on, and what transformers generates there.

The selection is seeded and greedy: each case takes, of some random candidates, the one that shows the most
pairs of values not seen together before.  A third of the cases, up to all 27, are corners of the three placements.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

import torch
from flexplan_runtime import ExecutionEnv, OffloadedLM
from flexplan_runtime.execute import BlockPlan, Sampling
from flexplan_runtime.generate.requests import Rows, Usual
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, Cache, PreTrainedModel

from flexplan.policy import Policy
from flexplan.problem import Expectation

CORNERS = ((100, 0), (0, 100), (0, 0))  # gpu, cpu; the rest is on disk
PLACEMENTS = (*CORNERS, (50, 50), (50, 0), (0, 50), (30, 40), (34, 33), (7.5, 61))
FACTORS: dict[str, Sequence[Any]] = {
    "w": PLACEMENTS,
    "cache": PLACEMENTS,
    "act": PLACEMENTS,
    "gpu_batch_size": (1, 2, 3, 4),
    "num_gpu_batches": (1, 2, 3, 4),
    "overlap": (True, False),
    "sep_layer": (True, False),
    "pin_weight": (True, False),
    "cpu_cache_compute": (False, True),
    "schedule": ("zigzag", "rowwise"),
    "fill": ("full", "partial", "spill"),
    "gen_len": (4, 2, 3, 1),
}
MOST_PROMPTS = 17
NEAR_TIE = 1e-3
THREE_TIERS = {  # as people write it, every tier at work
    "gpu_batch_size": 2,
    "num_gpu_batches": 2,
    "w_gpu_percent": 40,
    "w_cpu_percent": 30,
    "cache_gpu_percent": 40,
    "cache_cpu_percent": 30,
    "act_gpu_percent": 40,
    "act_cpu_percent": 30,
}
_CANDIDATES = 24
_TEXT = (
    "The with statement is used to wrap a block of code. An exception is raised when the value of a mapping object is "
    "not found. The function returns a list of strings, each of which names a module that can be imported. Class "
    "definitions create new types."
)


@dataclass(frozen=True)
class Case:
    """A policy, its schedule, how many prompts it is given and how many tokens each gets."""

    policy: Policy
    schedule: str = "zigzag"
    num_prompts: int = MOST_PROMPTS
    gen_len: int = 4

    @classmethod
    def of(cls, values: dict[str, Any]) -> Case:
        """The case of one value a factor."""
        values = dict(values)
        fill, schedule, gen_len = values.pop("fill"), values.pop("schedule"), values.pop("gen_len")
        for what in ("w", "cache", "act"):
            gpu, cpu = values.pop(what)
            values |= {f"{what}_gpu_percent": float(gpu), f"{what}_cpu_percent": float(cpu)}
        policy = Policy(**values)
        block = policy.block_size
        spill = 2 * block + 1 if block <= 3 else block + 1
        return cls(policy, schedule, {"full": block, "partial": max(1, block - 1), "spill": spill}[fill], gen_len)

    def __str__(self) -> str:
        """Short enough for the name of a test, complete enough to write it again."""
        p = self.policy
        shares = (f"{what}{'/'.join(f'{100 * s:g}' for s in p.shares(what)[:2])}" for what in ("w", "cache", "act"))
        flags = ("overlap", "sep_layer", "pin_weight", "cpu_cache_compute")
        on = "+".join(flag for flag in flags if getattr(p, flag)) or "plain"
        sizes = f"{p.gpu_batch_size}x{p.num_gpu_batches} prompts{self.num_prompts} tokens{self.gen_len}"
        return f"{' '.join(shares)} {sizes} {on} {self.schedule}"


def covering(count: int, seed: int = 0, **only: Sequence[Any]) -> list[Case]:
    """``count`` distinct cases that show as many pairs of values as they can; ``only`` narrows a factor."""
    return [Case.of(values) for values in covering_values(count, seed, **only)]


def covering_values(count: int, seed: int = 0, **only: Sequence[Any]) -> list[dict[str, Any]]:
    """The same as one value a factor."""
    rng, factors = random.Random(seed), FACTORS | only
    corners = list(product(*([p for p in factors[what] if p in CORNERS] for what in ("w", "cache", "act"))))
    corners = rng.sample(corners, min(len(corners), count if count >= 40 else count // 3))
    fixed = [dict(zip(("w", "cache", "act"), corner, strict=True)) for corner in corners]
    chosen: list[dict[str, Any]] = []
    seen: set[Any] = set()
    while len(chosen) < count:
        start = fixed.pop(0) if fixed else {}
        drawn = [{name: rng.choice(values) for name, values in factors.items()} | start for _ in range(_CANDIDATES)]
        best = max((d for d in drawn if d not in chosen), key=lambda d: len(pairs_of(d) - seen), default=None)
        if best is not None:
            chosen.append(best)
            seen |= pairs_of(best)
    return chosen


def pairs_of(values: dict[str, Any]) -> set[Any]:
    """Every two (factor, value) of a case."""
    return set(combinations(sorted(values.items(), key=lambda item: item[0]), 2))


# -- prompts ---------------------------------------------------------------------------------------------------
def text_prompts(model: Path, count: int = MOST_PROMPTS) -> list[list[int]]:
    """Distinct ragged prompts of words that the embedded model knows."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    words = _TEXT.split()
    texts = (" ".join(words[2 * n : 2 * n + 1 + (5 * n) % 7]) for n in range(count))
    return [tokenizer.encode(text).ids for text in texts]


def random_prompts(vocab_size: int, count: int = MOST_PROMPTS, seed: int = 0) -> list[list[int]]:
    """Distinct ragged prompts of any tokens, 1 to 11 long."""
    rng = random.Random(seed)
    lens = [1 + (7 * n) % 11 for n in range(count)]
    return [[rng.randrange(4, vocab_size) for _ in range(length)] for length in lens]


# -- what transformers generates -------------------------------------------------------------------------------
@dataclass(frozen=True)
class Reference:
    """Prompts, transformers' greedy continuation of each, and how far its best logit was above the second."""

    prompts: list[list[int]]
    tokens: torch.Tensor  # (rows, steps)
    gaps: torch.Tensor

    def expected(self, case: Case) -> torch.Tensor:
        """(rows, longest prompt + new) of the first prompts, padded with 0 on the left."""
        prompts = self.prompts[: case.num_prompts]
        return torch.cat((left_padded(prompts)[0], self.tokens[: case.num_prompts, : case.gen_len]), 1)

    def rows_that_differ(self, case: Case, output: torch.Tensor) -> list[tuple[int, float]]:
        """(row, gap of transformers' two best logits where it differs first) of every row that is not the same."""
        new = output[:, -case.gen_len :]
        expected = self.tokens[: case.num_prompts, : case.gen_len]
        rows = (new != expected).any(1).nonzero().flatten().tolist()
        return [(row, float(self.gaps[row, int((new[row] != expected[row]).nonzero()[0])])) for row in rows]


def left_padded(prompts: Sequence[Sequence[int]], pad: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask of a batch as transformers takes it."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in prompts])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])
    return ids, mask


@torch.no_grad()
def reference(
    model: PreTrainedModel, prompts: list[list[int]], gen_len: int = 4, cache: Cache | None = None
) -> Reference:
    """Greedy tokens of one left-padded batch that never stops; ``cache`` is fresh, None for transformers' own."""
    ids, mask = left_padded(prompts)
    done = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=gen_len,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        past_key_values=cache,
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = torch.stack(done.logits, 1).topk(2).values
    return Reference(prompts, done.sequences[:, ids.shape[1] :], best[..., 0] - best[..., 1])


@cache
def transformers_model(directory: Path) -> PreTrainedModel:
    """A checkpoint as transformers reads it, in float32."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return model.eval()


@cache
def text_reference(directory: Path) -> Reference:
    """What transformers generates for the embedded model's prompts."""
    return reference(transformers_model(directory), text_prompts(directory))


# -- what flexplan generates -----------------------------------------------------------------------------------
@contextmanager
def opened(
    model: Any,
    policy: Policy,
    offload_dir: Path,
    *,
    schedule: Any = None,
    dtype: str = "float32",
    expected: Expectation | None = None,
    **env: Any,
) -> Iterator[OffloadedLM]:
    """A model in an environment of its own, on the host."""
    with (
        ExecutionEnv.create(offload_dir, device="cpu", num_threads=1, **env) as tiers,
        OffloadedLM(model, tiers, model, policy, schedule=schedule, dtype=dtype, expected=expected) as lm,
    ):
        yield lm


def generated(model: Any, case: Case, prompts: Sequence[Sequence[int]], offload_dir: Path) -> torch.Tensor:
    """The output of a case for the first of these prompts, padded with 0."""
    with opened(model, case.policy, offload_dir, schedule=case.schedule) as lm:
        return lm.generate(prompts[: case.num_prompts], max_new_tokens=case.gen_len, pad_token_id=0)


def blocks_of(lm: OffloadedLM, prompts: Sequence[Sequence[int]], gen_len: int) -> list[BlockPlan]:
    """The blocks that ``lm.generate`` runs for these prompts: their graphs and placements."""
    return list(lm._calls.planner.plans(Rows(prompts, Usual(gen_len, Sampling(), (), lm.math))))
