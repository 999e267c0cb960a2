"""What transformers makes of a request in a model that has seen no other, and what flexplan makes of all at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from flexplan_runtime import ExecutionEnv, OffloadedLM
from transformers import AutoModelForCausalLM

from flexplan.policy import Policy
from flexplan.testing import policy_with

# several blocks of several micro-batches, every tensor over all three tiers
SPREAD = policy_with(2, 2, w=(30.0, 40.0), cache=(30.0, 40.0), act=(30.0, 40.0))
BUDGETS = {"gpu_mem": "1G", "cpu_mem": "1G", "disk_mem": "1G"}


def by_transformers(directory: Path, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
    """New tokens of each prompt; dynamic frequencies would depend on the longest sequence that a model has met."""
    found = []
    for prompt in prompts:
        model = AutoModelForCausalLM.from_pretrained(directory)
        ids = torch.tensor([prompt])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        found.append(out[0, len(prompt) :].tolist())
    return found


def by_flexplan(
    directory: Path, prompts: Sequence[Sequence[int]], new_tokens: int, scratch: Path, policy: Policy = SPREAD
) -> list[list[int]]:
    """New tokens of each prompt."""
    with (
        ExecutionEnv.create(scratch, device="cpu", **BUDGETS) as env,
        OffloadedLM(str(directory), env, directory, policy) as lm,
    ):
        return lm.complete(prompts, new_tokens).tokens
