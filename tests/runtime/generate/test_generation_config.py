"""A model's generation config is kept as transformers keeps it, greedy runs included.

``FLEXPLAN_CONFIGS`` is the number of random configurations: 40 unless it says otherwise.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from flexplan_runtime import OffloadedLM
from policies import opened
from random_configs import random_generation, random_model
from tiny_models import CONFIGS, saved
from torch import Tensor
from transformers import AutoModelForCausalLM

from flexplan.errors import FlexplanError, ModelFilesError, PromptError
from flexplan.model import read_config
from flexplan.policy import Policy
from flexplan.testing import policy_with

TRIES = int(os.environ.get("FLEXPLAN_CONFIGS", "40"))
NEW = 12
SPREAD = policy_with(2, 2, w=(30.0, 40.0), cache=(30.0, 40.0), act=(30.0, 40.0))
PROMPTS = torch.tensor([[9, 40, 77, 20, 9, 40], [3, 3, 8, 61, 12, 3], [50, 51, 52, 53, 54, 55], [7, 8, 7, 8, 7, 8]])
RULES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "repetition": {"repetition_penalty": 1.4},
    "reward of repetition": {"repetition_penalty": 0.6},
    "no token twice": {"no_repeat_ngram_size": 1},
    "no pair twice": {"no_repeat_ngram_size": 2},
    "longer runs than there are": {"no_repeat_ngram_size": 30},
    "least new tokens": {"min_new_tokens": 6},
    "least length": {"min_length": 10},
    "both": {"min_length": 17, "min_new_tokens": 4},
    "bad words": {"bad_words_ids": [[82], [12, 80], [86, 60, 13], [62, 62]]},
    "an end token is no bad word": {"bad_words_ids": [[5], [93]]},
    "biases": {"sequence_bias": [[[9, 40], -3.5], [[12], 9.0], [[77], -30.0]]},
    "suppressed": {"suppress_tokens": [*range(30), 500, -1]},
    "suppressed at first": {"begin_suppress_tokens": [*range(60)]},
    "a forced end": {"forced_eos_token_id": [2]},
    "a forced beginning": {"forced_bos_token_id": 31},
    "an end that grows likely": {"exponential_decay_length_penalty": [2, 1.6]},
    "numbers instead of what is none": {"remove_invalid_values": True},
    "draws that a greedy run leaves": {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "typical_p": 0.9},
    "an end that is sure in the end": {"exponential_decay_length_penalty": [0, 1e9]},
    "all together": {
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3,
        "min_new_tokens": 4,
        "bad_words_ids": [[5], [9, 40]],
        "suppress_tokens": [1, 3, 4],
        "begin_suppress_tokens": [8, 9],
        "forced_eos_token_id": 2,
        "exponential_decay_length_penalty": [5, 1.1],
    },
}
ENDS = {"eos_token_id": [2, 5, 12], "pad_token_id": 1}


def with_generation(model: Path, found: Mapping[str, Any]) -> None:
    (model / "generation_config.json").write_text(json.dumps(found))


def of_transformers(model: Path, ids: Tensor, mask: Tensor | None, **options: Any) -> Tensor:
    """New tokens of its own generate, by the directory alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        with torch.no_grad():
            out = reference.generate(ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, **options)
    return out[:, ids.shape[1] :]


def new_tokens(lm: OffloadedLM, ids: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
    return lm.generate(ids, mask, max_new_tokens=NEW, stop="model", **options)[:, ids.shape[1] :]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("llama") / "model"
    saved(CONFIGS["llama"], directory)
    return directory


@pytest.fixture
def model(llama: Path, tmp_path: Path) -> Path:
    """A copy whose generation config may be written."""
    return Path(shutil.copytree(llama, tmp_path / "model"))


@pytest.mark.parametrize("name", RULES)
def test_a_rule_gives_transformers_tokens(name: str, model: Path, tmp_path: Path) -> None:
    with_generation(model, ENDS | RULES[name])
    expected = of_transformers(model, PROMPTS, torch.ones_like(PROMPTS))
    with opened(model, SPREAD, tmp_path) as lm:
        assert torch.equal(new_tokens(lm, PROMPTS), expected)


def test_the_rules_above_change_tokens(model: Path) -> None:
    """Else the tests of them could not fail."""
    with_generation(model, ENDS)
    plain = of_transformers(model, PROMPTS, torch.ones_like(PROMPTS)).tolist()
    idle = []
    for name, rule in RULES.items():
        with_generation(model, ENDS | rule)
        if of_transformers(model, PROMPTS, torch.ones_like(PROMPTS)).tolist() == plain:
            idle.append(name)
    assert set(idle) == {
        "nothing",
        "longer runs than there are",
        "a forced beginning",
        "numbers instead of what is none",
        "draws that a greedy run leaves",
    }


def test_a_beginning_is_forced_after_one_token(model: Path, tmp_path: Path) -> None:
    with_generation(model, ENDS | {"forced_bos_token_id": 33, "begin_suppress_tokens": [*range(50)]})
    ids = torch.tensor([[9], [12]])
    expected = of_transformers(model, ids, torch.ones_like(ids))
    with opened(model, SPREAD, tmp_path) as lm:
        assert torch.equal(new_tokens(lm, ids), expected)
    assert expected[:, 0].tolist() == [33, 33]


@pytest.mark.parametrize("name", RULES)
def test_padded_rows_give_transformers_tokens(name: str, model: Path, tmp_path: Path) -> None:
    with_generation(model, ENDS | RULES[name])
    ids, mask = PROMPTS.clone(), torch.ones_like(PROMPTS)
    ids[1, :3], mask[1, :3], ids[3, :1], mask[3, :1] = 1, 0, 1, 0
    expected = of_transformers(model, ids, mask)
    with opened(model, SPREAD, tmp_path) as lm:
        assert torch.equal(new_tokens(lm, ids, mask), expected)
        assert torch.equal(new_tokens(lm, ids), expected)  # the padding is known by its id


def test_padding_on_the_right_is_said(model: Path, tmp_path: Path) -> None:
    """transformers would continue after the padding, and says so, too."""
    with_generation(model, ENDS)
    ids = torch.tensor([[9, 40, 1], [3, 8, 12]])
    with opened(model, SPREAD, tmp_path) as lm:
        with pytest.warns(UserWarning, match="rows 0 end with padding"):
            found = new_tokens(lm, ids)
        assert torch.equal(found[0], new_tokens(lm, torch.tensor([[9, 40], [3, 8]]))[0, : found.shape[1]])


PLACEMENTS = {
    "one row at a time": (Policy(1, 1), "zigzag"),
    "all in one": (Policy(5, 1), "zigzag"),
    "row by row": (policy_with(2, 3, w=(0.0, 0.0)), "rowwise"),
    "attention on the host": (policy_with(3, 2, w=(50.0, 20.0), cache=(0.0, 50.0), cpu_cache_compute=True), "zigzag"),
    "nothing at once": (Policy(2, 2, overlap=False, sep_layer=False), "zigzag"),
}


@pytest.mark.parametrize("name", PLACEMENTS)
def test_rules_hold_wherever_tensors_live(name: str, model: Path, tmp_path: Path) -> None:
    with_generation(model, ENDS | RULES["all together"])
    rows = torch.cat([PROMPTS, PROMPTS.flip(1), PROMPTS.roll(1, 1)])
    expected = of_transformers(model, rows, torch.ones_like(rows))
    policy, schedule = PLACEMENTS[name]
    with opened(model, policy, tmp_path, schedule=schedule) as lm:
        assert torch.equal(new_tokens(lm, rows), expected)


def test_a_row_has_its_tokens_whatever_runs_beside_it(model: Path, tmp_path: Path) -> None:
    with_generation(model, ENDS | RULES["all together"])
    prompts = [[9, 40, 77], [3, 3, 8, 61, 12, 3, 3, 8], [50], [7, 8] * 5, [1, 2, 3, 4, 5]]
    with opened(model, SPREAD, tmp_path) as lm:
        together = lm.complete(prompts, NEW, stops=(2,)).tokens
        assert together == [lm.complete([prompt], NEW, stops=(2,)).tokens[0] for prompt in prompts]


def test_the_second_block_has_a_history_of_its_own(model: Path, tmp_path: Path) -> None:
    with_generation(model, RULES["repetition"])
    with opened(model, Policy(1, 1), tmp_path) as lm:
        rows = torch.cat([PROMPTS, PROMPTS.flip(1)])
        assert torch.equal(new_tokens(lm, rows), torch.cat([new_tokens(lm, row[None]) for row in rows]))


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_a_prompt_may_fill_the_context_when_one_token_is_asked_for(family: str, tmp_path: Path) -> None:
    saved(CONFIGS[family], tmp_path / "model")
    ids = torch.arange(3, 43)[None]  # 40 positions
    with torch.no_grad():
        reference = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
        expected = int(reference(ids).logits[0, -1].argmax())
    with opened(tmp_path / "model", SPREAD, tmp_path) as lm:
        assert int(lm.generate(ids, max_new_tokens=1)[0, -1]) == expected
        with pytest.raises(PromptError, match="40 tokens"):
            lm.generate(ids, max_new_tokens=2)


# -- which file counts ---------------------------------------------------------------------------------------------
def test_config_json_counts_only_where_there_is_no_generation_config(model: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"repetition_penalty": 1.5, "eos_token_id": 60}))
    (model / "generation_config.json").unlink()
    for written in (False, True):
        if written:
            with_generation(model, {"pad_token_id": 1})
        expected = of_transformers(model, PROMPTS, torch.ones_like(PROMPTS))
        with opened(model, SPREAD, tmp_path) as lm:
            assert torch.equal(new_tokens(lm, PROMPTS), expected)
            assert lm.math.eos_token_ids == (() if written else (60,))


def test_end_begin_and_pad_ids_beyond_the_vocabulary_never_match(model: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"bos_token_id": 50256}))
    with_generation(model, {"eos_token_id": [60, 50256], "pad_token_id": 60_000, "min_new_tokens": 3})
    expected = of_transformers(model, PROMPTS[:1], torch.ones_like(PROMPTS[:1]))
    with opened(model, Policy(), tmp_path) as lm:
        assert torch.equal(new_tokens(lm, PROMPTS[:1]), expected)


REFUSED = {
    "num_beams": 4,
    "penalty_alpha": 0.6,
    "guidance_scale": 1.5,
    "num_return_sequences": 2,
    "stop_strings": ["."],
    "repetition_penalty": -1.0,
    "no_repeat_ngram_size": 2.5,
    "bad_words_ids": [[500]],
    "forced_eos_token_id": 500,
    "min_length": "9",
    "sequence_bias": {"(1,)": 2.0},
    "exponential_decay_length_penalty": 3,
}


def test_tokens_that_are_forced_and_forbidden_are_refused(model: Path) -> None:
    with_generation(model, {"forced_eos_token_id": [2, 4], "suppress_tokens": [4, 2, 1]})
    with pytest.raises(ModelFilesError, match=r"forced_eos_token_id .* suppress_tokens"):
        read_config(model)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_honoured_is_refused_by_name_and_file(name: str, model: Path) -> None:
    with_generation(model, {name: REFUSED[name]})
    with pytest.raises(ModelFilesError, match=f"generation_config.json: {name} is"):
        read_config(model)


# -- draws ---------------------------------------------------------------------------------------------------------
def test_a_greedy_run_says_that_the_model_asks_for_draws(model: Path, tmp_path: Path) -> None:
    with_generation(model, {"do_sample": True, "temperature": 0.7})
    with opened(model, Policy(), tmp_path) as lm:
        with pytest.warns(UserWarning, match=r"do_sample True, temperature 0.7.*greedy"):
            lm.generate(PROMPTS[:1], max_new_tokens=1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            lm.generate(PROMPTS[:1], max_new_tokens=1, do_sample=False)  # that is what was asked for


def test_draws_take_the_models_own_settings_and_an_argument_stands_above_them(model: Path, tmp_path: Path) -> None:
    with_generation(model, {"temperature": 0.01, "top_k": 3})
    with opened(model, Policy(4, 1), tmp_path) as lm:
        cold = lm.generate(PROMPTS, max_new_tokens=NEW, do_sample=True)
        assert torch.equal(cold, lm.generate(PROMPTS, max_new_tokens=NEW, do_sample=True, temperature=0.01, top_k=3))
        hot = lm.generate(PROMPTS, max_new_tokens=NEW, do_sample=True, temperature=5.0)
        assert not torch.equal(cold, hot)


# -- 300 random ones -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(TRIES))
def test_no_token_but_transformers_without_a_word(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    config, ids = random_model(draw)
    saved(config, tmp_path / "model")
    with_generation(tmp_path / "model", random_generation(draw, config.vocab_size))
    said: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as said, opened(tmp_path / "model", SPREAD, tmp_path) as lm:
            warnings.simplefilter("always")
            found = new_tokens(lm, ids)
    except FlexplanError as refusal:
        named = json.loads((tmp_path / "model" / "generation_config.json").read_text())
        assert any(name in str(refusal) for name in named), refusal
        return
    try:
        expected = of_transformers(tmp_path / "model", ids, None)
    except (ValueError, IndexError, RuntimeError):
        return  # transformers gives no tokens that could differ
    assert torch.equal(found, expected) or any("generation config" in str(word.message) for word in said)
