"""generate: what goes in and comes out is what transformers' users know."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from flexplan_runtime import ExecutionEnv, OffloadedLM
from policies import (
    Case,
    generated,
    left_padded,
    opened,
    random_prompts,
    reference,
    text_prompts,
    text_reference,
    transformers_model,
)
from tiny_models import CONFIGS, saved, saved_npy
from torch import Tensor

from flexplan.model import read_config
from flexplan.policy import Policy
from flexplan.testing import policy_with

SPREAD = policy_with(2, 2, w=(30.0, 40.0), cache=(30.0, 40.0), act=(30.0, 40.0))  # every tensor over all three tiers
PAD, MOST_TOKENS = 1, 8
STOPPING = {  # block shapes and orders in which rows end at different times
    "one row a block": (Policy(1, 1), "zigzag"),
    "one micro-batch": (Policy(4, 1), "zigzag"),
    "several micro-batches": (policy_with(2, 3, w=(30.0, 40.0), cache=(30.0, 40.0), act=(30.0, 40.0)), "zigzag"),
    "attention on the host": (Policy(2, 3, cache_gpu_percent=0.0, cpu_cache_compute=True), "zigzag"),
    "no overlap": (policy_with(2, 3, w=(0.0, 50.0), cache=(0.0, 50.0), act=(0.0, 0.0), overlap=False), "zigzag"),
    "row by row": (policy_with(2, 3, w=(30.0, 40.0), cache=(30.0, 40.0), act=(30.0, 40.0)), "rowwise"),
}


@pytest.fixture
def lm(tiny_opt: Path, tmp_path: Path) -> Iterator[OffloadedLM]:
    with opened(tiny_opt, SPREAD, tmp_path) as model:
        yield model


def by_transformers(directory: Path, prompts: list[list[int]], stops: list[int] | None, tokens: int) -> Tensor:
    ids, mask = left_padded(prompts, PAD)
    model = transformers_model(directory)
    return model.generate(
        ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, eos_token_id=stops, pad_token_id=PAD
    )


# -- what goes in ------------------------------------------------------------------------------------------------
def test_output_is_the_tensor_that_transformers_returns(tiny_opt: Path, lm: OffloadedLM) -> None:
    prompts = text_prompts(tiny_opt)
    output = lm.generate(prompts, max_new_tokens=4)
    assert output.dtype == torch.long
    assert torch.equal(output, by_transformers(tiny_opt, prompts, None, 4))


def test_padded_tensor_with_its_mask_is_the_same_as_lists(tiny_opt: Path, lm: OffloadedLM) -> None:
    prompts = text_prompts(tiny_opt, 5)
    ids, mask = left_padded(prompts, PAD)
    before = ids.clone()
    assert torch.equal(lm.generate(ids, mask, max_new_tokens=3), lm.generate(prompts, max_new_tokens=3))
    assert torch.equal(ids, before)


def test_tensor_without_a_mask_has_no_padding(tiny_opt: Path, lm: OffloadedLM) -> None:
    ids = torch.tensor([text_prompts(tiny_opt)[n][:2] for n in (3, 4, 5)])
    assert torch.equal(lm.generate(ids, max_new_tokens=3), lm.generate(ids.tolist(), max_new_tokens=3))


def test_rows_are_in_the_order_of_the_input(tiny_opt: Path, lm: OffloadedLM) -> None:
    prompts = text_prompts(tiny_opt, 7)
    forth, back = lm.generate(prompts, max_new_tokens=3), lm.generate(prompts[::-1], max_new_tokens=3)
    assert torch.equal(forth, back.flip(0))


def test_calling_again_gives_the_same(tiny_opt: Path, lm: OffloadedLM) -> None:
    prompts = text_prompts(tiny_opt, 5)
    first = lm.generate(prompts, max_new_tokens=3)
    lm.generate(prompts[2:4], max_new_tokens=5)
    assert torch.equal(lm.generate(prompts, max_new_tokens=3), first)


def test_32_new_tokens_are_the_default(tiny_opt: Path, lm: OffloadedLM) -> None:
    prompts = text_prompts(tiny_opt, 1)
    assert lm.generate(prompts).shape == (1, len(prompts[0]) + 32)


def test_progress_counts_every_token(tiny_opt: Path, lm: OffloadedLM) -> None:
    seen: list[tuple[int, int]] = []
    lm.generate(text_prompts(tiny_opt, 6), max_new_tokens=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 18), (8, 18), (12, 18), (14, 18), (16, 18), (18, 18)]


# -- stops ---------------------------------------------------------------------------------------------------------
def frequent_tokens(directory: Path, rows: int = 9) -> list[int]:
    """Tokens that some rows generate early, others late or never."""
    tokens = by_transformers(directory, text_prompts(directory, rows), None, MOST_TOKENS)[:, -MOST_TOKENS:]
    return [int(token) for token in (tokens[0, 2], tokens[4, 3], tokens[5, 0])]


@pytest.mark.parametrize("many", [False, True], ids=["an id", "a list"])
@pytest.mark.parametrize("name", STOPPING)
def test_rows_end_where_transformers_ends_them(name: str, many: bool, tiny_opt: Path, tmp_path: Path) -> None:
    policy, schedule = STOPPING[name]
    prompts, stops = text_prompts(tiny_opt, 9), frequent_tokens(tiny_opt)[: 3 if many else 1]
    expected = by_transformers(tiny_opt, prompts, stops, MOST_TOKENS)
    assert (expected[:, -1] == PAD).any()  # some row has stopped
    with opened(tiny_opt, policy, tmp_path, schedule=schedule) as lm:
        output = lm.generate(prompts, max_new_tokens=MOST_TOKENS, stop=stops if many else stops[0], pad_token_id=PAD)
    assert torch.equal(output, expected)


def test_none_never_stops_and_model_stops_at_the_checkpoints_own_end(tiny_opt: Path, tmp_path: Path) -> None:
    ends = frequent_tokens(tiny_opt)[:1]
    math = read_config(tiny_opt)[1]
    assert math.eos_token_ids
    model = shutil.copytree(tiny_opt, tmp_path / "model")
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(config.replace('"eos_token_id": 2', f'"eos_token_id": {ends[0]}'))
    generation = model / "generation_config.json"
    generation.write_text(generation.read_text().replace('"eos_token_id": 2', f'"eos_token_id": {ends[0]}'))
    prompts = text_prompts(tiny_opt, 9)
    with opened(model, SPREAD, tmp_path) as lm:
        never = lm.generate(prompts, max_new_tokens=MOST_TOKENS)
        at_end = lm.generate(prompts, max_new_tokens=MOST_TOKENS, stop="model")
    assert torch.equal(never, by_transformers(tiny_opt, prompts, None, MOST_TOKENS))
    assert torch.equal(at_end, by_transformers(tiny_opt, prompts, ends, MOST_TOKENS))


def test_token_0_stops_too(tmp_path: Path) -> None:
    config = CONFIGS["llama"]
    model = saved(config, tmp_path / "model")
    prompts = random_prompts(config.vocab_size, 6)
    frequent = int(reference(model, prompts).tokens[2, 0])
    with torch.no_grad():  # the token becomes number 0
        model.lm_head.weight[[0, frequent]] = model.lm_head.weight[[frequent, 0]].clone()
    model.save_pretrained(tmp_path / "model")
    ids, mask = left_padded(prompts)
    expected = model.generate(
        ids, attention_mask=mask, max_new_tokens=5, do_sample=False, eos_token_id=0, pad_token_id=7
    )
    with opened(tmp_path / "model", SPREAD, tmp_path) as lm:
        output = lm.generate(prompts, max_new_tokens=5, stop=0, pad_token_id=7)
    longest = ids.shape[1]
    assert (output[2, longest:] == torch.tensor([0] + [7] * (output.shape[1] - longest - 1))).all()
    assert torch.equal(output[:, longest:], expected[:, longest:])


def test_padding_is_the_checkpoints_pad_else_the_first_stop_else_0(tmp_path: Path) -> None:
    saved(CONFIGS["llama"], tmp_path / "model")
    assert read_config(tmp_path / "model")[1].pad_token_id is None
    with opened(tmp_path / "model", Policy(), tmp_path) as lm:
        assert lm.generate([[5], [6, 7]], max_new_tokens=1)[0, 0] == 0
        assert lm.generate([[5], [6, 7]], max_new_tokens=1, stop=[44, 45])[0, 0] == 44
        assert lm.generate([[5], [6, 7]], max_new_tokens=1, stop=[44], pad_token_id=9)[0, 0] == 9


def passes(lm: OffloadedLM) -> list[tuple[int, int]]:
    """(token i, micro-batch k) of every pass of the last block through the head."""
    head = len(lm.layers) - 1
    names = [span.name for span in lm.timeline.spans if span.name.startswith("compute@") and f" j={head} " in span.name]
    found = [dict(part.split("=") for part in name[name.index("[") + 1 : -1].split()) for name in names]
    return sorted((int(f["i"]), int(f["k"])) for f in found)


@pytest.mark.parametrize("schedule", ["zigzag", "rowwise"])
def test_a_block_ends_when_all_its_rows_have_stopped(schedule: str, tiny_opt: Path, tmp_path: Path) -> None:
    prompts = text_prompts(tiny_opt, 4)
    tokens = text_reference(tiny_opt).tokens[:4]
    stops = sorted({int(tokens[row, 2]) for row in range(4)})
    ended = [next(i for i in range(4) if int(tokens[row, i]) in stops) for row in range(4)]
    with opened(tiny_opt, SPREAD, tmp_path, schedule=schedule) as lm:
        output = lm.generate(prompts, max_new_tokens=30, stop=stops, trace=True)
        longest = max(map(len, prompts))
        assert output.shape[1] == longest + max(ended) + 1
        ran = passes(lm)
        assert torch.equal(lm.generate(prompts, max_new_tokens=30, stop=stops), output)  # after what was dropped
    by_length = sorted(range(4), key=lambda row: len(prompts[row]))
    last = [max(ended[row] for row in by_length[2 * k : 2 * k + 2]) for k in (0, 1)]
    # a finished micro-batch is in the pass that was queued by then, and in no more; what nobody waits for is dropped
    runs_on = {"zigzag": [k for k in (0, 1) if last[k] < max(last)], "rowwise": [0]}[schedule]
    assert ran == sorted((i, k) for k in (0, 1) for i in range(last[k] + 1 + (k in runs_on)))


def test_a_stop_nobody_meets_changes_nothing(tiny_opt: Path, lm: OffloadedLM) -> None:
    prompts, unused = text_prompts(tiny_opt, 5), 2047
    never = lm.generate(prompts, max_new_tokens=4)
    assert not (never == unused).any()
    assert torch.equal(lm.generate(prompts, max_new_tokens=4, stop=unused), never)


def test_a_stop_beyond_the_vocabulary_feeds_no_row_that_has_stopped(tiny_opt: Path, tmp_path: Path) -> None:
    prompts = text_prompts(tiny_opt, 4)
    tokens = text_reference(tiny_opt).tokens[:4]
    with opened(tiny_opt, Policy(2, 2, w_gpu_percent=0.0, w_cpu_percent=100.0), tmp_path) as lm:
        lm.math = lm.math.model_copy(update={"pad_token_id": None})
        stop = (lm.shape.vocab_size + 5, int(tokens[0, 1]))  # stopped rows of a model without padding take a stop
        output = lm.generate(prompts, max_new_tokens=4, stop=stop, pad_token_id=0)
    assert int(output[0, max(map(len, prompts)) + 1]) == int(tokens[0, 1])


# -- where weights come from ---------------------------------------------------------------------------------------
def test_sharded_safetensors_give_the_same_tokens(tmp_path: Path) -> None:
    model = saved(CONFIGS["qwen3"], tmp_path / "model", max_shard_size="20KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 3
    expected = reference(model, random_prompts(CONFIGS["qwen3"].vocab_size, 5))
    case = Case(SPREAD, num_prompts=5)
    assert torch.equal(generated(tmp_path / "model", case, expected.prompts, tmp_path), expected.expected(case))


def test_one_npy_a_tensor_gives_the_same_tokens(tmp_path: Path) -> None:
    """The reference system's own files, which have no config beside them and hold float16."""
    model = saved(CONFIGS["opt"], tmp_path / "model")
    saved_npy(model, tmp_path / "weights" / "tiny-np")
    expected = reference(model.half().float(), random_prompts(CONFIGS["opt"].vocab_size, 5))
    config = read_config(tmp_path / "model")
    case = Case(SPREAD, num_prompts=5)
    with (
        ExecutionEnv.create(tmp_path, device="cpu") as env,
        OffloadedLM(config, env, tmp_path / "weights" / "tiny-np", case.policy, dtype="float32") as lm,
    ):
        output = lm.generate(expected.prompts, max_new_tokens=4, pad_token_id=0)
    assert torch.equal(output, expected.expected(case))


@pytest.mark.parametrize("below", ["tiny-opt", "tiny-opt-np", "."])
def test_path_may_be_the_directory_or_its_parent_and_begin_with_a_tilde(
    below: str, tiny_opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(tiny_opt, tmp_path / "weights" / below, dirs_exist_ok=True)
    with (
        ExecutionEnv.create("~/scratch", device="cpu") as env,
        OffloadedLM("me/tiny-opt", env, "~/weights", Policy(), dtype="float32") as lm,
    ):
        output = lm.generate(text_prompts(tiny_opt, 3), max_new_tokens=2, pad_token_id=0)
    assert torch.equal(output, text_reference(tiny_opt).expected(Case(Policy(), num_prompts=3, gen_len=2)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_runs_over_all_tiers(dtype: str, tiny_opt: Path, tmp_path: Path) -> None:
    """Rounding may turn a token; but what every tier gives is the same."""
    prompts, outputs = text_prompts(tiny_opt, 5), []
    for policy in (
        Policy(2, 2),
        SPREAD,
        policy_with(2, 2, w=(0.0, 0.0), cache=(0.0, 0.0), act=(0.0, 0.0), cpu_cache_compute=True),
    ):
        with opened(tiny_opt, policy, tmp_path, dtype=dtype) as lm:
            outputs.append(lm.generate(prompts, max_new_tokens=4, pad_token_id=0))
    expected = text_reference(tiny_opt).expected(Case(SPREAD, num_prompts=5))
    assert all((output == expected).float().mean() > 0.9 for output in outputs)


def test_checkpoint_width_is_the_default_dtype(tiny_opt: Path, tmp_path: Path) -> None:
    with ExecutionEnv.create(tmp_path, device="cpu") as env, OffloadedLM(tiny_opt, env, tiny_opt, Policy()) as lm:
        assert lm.dtype == torch.float16
        assert lm.generate([[2, 50]], max_new_tokens=2).shape == (1, 4)


@pytest.mark.parametrize(("sep_layer", "length"), [(False, 6), (True, 10)])
def test_layers_are_the_schedules(sep_layer: bool, length: int, tiny_opt: Path, tmp_path: Path) -> None:
    """N + 2, or 2 N + 2: the model has four transformer layers."""
    with opened(tiny_opt, Policy(sep_layer=sep_layer), tmp_path) as lm:
        assert len(lm.layers) == length
        assert (lm.layers[0].role, lm.layers[-1].role) == ("embed", "head")


def test_measured_timeline_of_the_last_call_is_kept(tiny_opt: Path, lm: OffloadedLM) -> None:
    lm.generate(text_prompts(tiny_opt, 4), max_new_tokens=3)
    assert sorted(lm.timeline.sweep_end_s) == [0, 1, 2]
    assert 0 < lm.timeline.prefill_s < lm.timeline.end_s
