"""The embedded model is complete, small, and sure of its tokens."""

from __future__ import annotations

from pathlib import Path

import torch
from flexplan_runtime.embedded import tiny_opt_prompts
from transformers import AutoModelForCausalLM, AutoTokenizer

END_ID = 2


def test_directory_is_small_and_complete(tiny_opt: Path) -> None:
    names = {path.name for path in tiny_opt.iterdir()}
    assert names >= {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "prompts.txt",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(path.stat().st_size for path in tiny_opt.iterdir()) < 2.6e6


def test_tokenizer_begins_with_the_end_token_as_opt_does_and_gives_text_back(tiny_opt: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_opt)
    text = "The with statement, naïvely:\n\n\tpass  # 42 "
    ids = tokenizer(text).input_ids
    assert ids[0] == END_ID == tokenizer.eos_token_id == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.pad_token_id == 1


def test_two_best_logits_are_never_near_a_tie(tiny_opt: Path) -> None:
    """Else equality of greedy tokens would depend on the order of a sum."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_opt)
    model = AutoModelForCausalLM.from_pretrained(tiny_opt, dtype=torch.float32)
    continuations = set()
    for prompt in tiny_opt_prompts()[::8]:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        output = model.generate(
            ids, max_new_tokens=48, do_sample=False, eos_token_id=None, return_dict_in_generate=True, output_logits=True
        )
        best = torch.stack(output.logits).topk(2).values
        assert (best[..., 0] - best[..., 1]).min() > 0.5, prompt
        continuations.add(tuple(output.sequences[0, ids.shape[1] :].tolist()))
    assert len(continuations) == 8
