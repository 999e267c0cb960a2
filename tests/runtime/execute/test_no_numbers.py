"""Logits that are NaN or infinite end the row that has them, by name; never is token 0 chosen for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from flexplan_runtime.execute import Sampling
from flexplan_runtime.execute.choosing import NO_TOKEN
from policies import opened
from safetensors.torch import load_file, save_file
from tiny_models import CONFIGS, saved
from typer.testing import CliRunner

from flexplan.cli.app import app
from flexplan.errors import NoNumbers
from flexplan.policy import Policy
from flexplan.testing import policy_with

BAD = 13  # the token whose embedding is broken
PROMPTS = [[9, 40, 77], [3, BAD, 8, 61], [50, 51], [7, 8, 7, 8, 9], [BAD]]
WRITTEN = ("out.jsonl", "out.errors.jsonl")
PLACEMENTS = {
    "one row at a time": Policy(1, 1),
    "all in one": Policy(5, 1),
    "three tiers": policy_with(2, 2, w=(30.0, 40.0), cache=(30.0, 40.0), act=(30.0, 40.0)),
    "attention on the host": policy_with(3, 2, w=(50.0, 20.0), cache=(0.0, 50.0), cpu_cache_compute=True),
    "packed cache": Policy(3, 2, compress_cache=True),
}


def broken_model(directory: Path, value: float, name: str = "llama") -> Path:
    saved(CONFIGS[name], directory)
    tensors = load_file(directory / "model.safetensors")
    tensors["model.embed_tokens.weight"][BAD] = value
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return broken_model(tmp_path_factory.mktemp("broken") / "model", float("nan"))


@pytest.mark.parametrize("name", PLACEMENTS)
def test_a_row_without_numbers_is_named_and_all_others_are_as_without_it(
    name: str, model: Path, tmp_path: Path
) -> None:
    with opened(model, PLACEMENTS[name], tmp_path) as lm:
        healthy = [row for row in range(5) if BAD not in PROMPTS[row]]
        expected = lm.complete([PROMPTS[row] for row in healthy], 6).tokens
        done = lm.complete(PROMPTS, 6)
        assert done.broken == {1: 0, 4: 0}
        assert [done.tokens[row] for row in healthy] == expected
        assert done.tokens[1] == done.tokens[4] == []
        with pytest.raises(NoNumbers, match=r"new token 0 of prompt 1 .* 1 other prompts: 4") as raised:
            lm.generate(PROMPTS, max_new_tokens=6)
        assert raised.value.broken == {1: 0, 4: 0}
        assert [raised.value.tokens[row] for row in healthy] == expected


@pytest.mark.parametrize("family", ["opt", "mixtral"])
def test_other_families_do_so_too(family: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    saved(CONFIGS[family], model)
    table = "model.decoder.embed_tokens.weight" if family == "opt" else "model.embed_tokens.weight"
    tensors = load_file(model / "model.safetensors")
    tensors[table][BAD] = float("nan")
    if family == "opt":  # tied: every row's logit of that token is broken
        tensors["lm_head.weight"] = torch.nan_to_num(tensors[table])
        config = json.loads((model / "config.json").read_text()) | {"tie_word_embeddings": False}
        (model / "config.json").write_text(json.dumps(config))
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with opened(model, PLACEMENTS["three tiers"], tmp_path) as lm:
        done = lm.complete(PROMPTS, 6)
    assert set(done.broken) == {1, 4}


def test_it_may_happen_at_any_token(tmp_path: Path) -> None:
    """The model comes to the broken token by itself."""
    model = tmp_path / "model"
    reference = saved(CONFIGS["llama"], model)
    ids = torch.tensor([PROMPTS[0]])
    told = reference.generate(ids, attention_mask=ids > 0, max_new_tokens=6, do_sample=False)[0, 3:].tolist()
    later = next(n for n in range(1, 6) if told[n] not in told[:n])
    tensors = load_file(model / "model.safetensors")
    tensors["model.embed_tokens.weight"][told[later]] = float("inf")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with opened(model, PLACEMENTS["three tiers"], tmp_path) as lm:
        done = lm.complete([PROMPTS[0], PROMPTS[2]], 6)
    assert done.broken[0] == later + 1
    assert done.tokens[0] == told[: later + 1]


def test_a_block_ends_where_every_row_is_broken(model: Path, tmp_path: Path) -> None:
    with opened(model, Policy(2, 1), tmp_path) as lm:
        done = lm.complete([[BAD], [BAD, 5]], 30)
        assert done.broken == {0: 0, 1: 0}
        assert len({span.i for span in lm.timeline.spans}) <= 3


def test_nothing_stands_out_where_all_is_masked_or_infinite() -> None:
    inf, nan = float("inf"), float("nan")
    logits = torch.tensor([[1.0, 2.0, -inf], [nan, 2.0, 3.0], [1.0, inf, 0.0], [-inf, -inf, -inf]])
    assert Sampling().choose(logits, range(4), 0).tolist() == [1, NO_TOKEN, NO_TOKEN, NO_TOKEN]
    drawn = Sampling(do_sample=True).choose(logits, range(4), 0).tolist()
    assert drawn[0] in (0, 1) and drawn[1:] == [NO_TOKEN] * 3


def test_run_writes_every_line_and_exits_with_5(model: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"id": f"p{n}", "prompt_ids": ids}) for n, ids in enumerate(PROMPTS)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    (tmp_path / "policy.json").write_text(json.dumps(Policy(2, 2).to_dict()))
    args = ["run", str(tmp_path / "policy.json"), "--model", str(model), "--prompts", str(tmp_path / "in.jsonl")]
    args += ["-o", str(tmp_path / "out.jsonl"), "--device", "cpu", "--dtype", "float32", "--max-new-tokens", "4"]
    ran = CliRunner().invoke(app, [*args, "--offload-dir", str(tmp_path / "off")])
    found = {name: [json.loads(line) for line in (tmp_path / name).read_text().splitlines()] for name in WRITTEN}
    done, failed = (found[name] for name in WRITTEN)
    assert [(line["id"], line["finish_reason"], len(line["token_ids"])) for line in done] == [
        (name, "length", 4) for name in ("p0", "p2", "p3")
    ]
    assert [(line["id"], line["finish_reason"], line["token_ids"]) for line in failed] == [
        (name, "error", []) for name in ("p1", "p4")
    ]
    assert all("NaN" in line["error"]["message"] for line in failed)
    assert ran.exit_code == 5
    assert "2 of 5 prompts" in ran.stderr and "id 'p1', id 'p4'" in ran.stderr
