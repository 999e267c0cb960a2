"""The dtype is the checkpoint's unless another is asked for, in `run` and `bench`, from weights to tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from alone import by_flexplan, by_transformers
from flexplan_runtime.embedded import tiny_opt_prompts
from flexplan_runtime.execute import block as block_module
from policies import THREE_TIERS
from safetensors.torch import load_file, save_file
from tiny_models import ROTARY, reference_model, saved
from transformers import AutoModelForCausalLM, LlamaConfig
from typer.testing import CliRunner

from flexplan.cli.app import app
from flexplan.errors import ModelFilesError
from flexplan.model import read_config
from flexplan.model.stored import INDEX, SINGLE

WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2}
each_dtype = pytest.mark.parametrize("dtype", WIDTHS)


@pytest.fixture(scope="module")
def models(tiny_opt: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The embedded model as a checkpoint of each dtype."""
    found = {}
    for dtype in WIDTHS:
        found[dtype] = tmp_path_factory.mktemp(dtype)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tiny_opt / name, found[dtype])
        AutoModelForCausalLM.from_pretrained(tiny_opt, dtype=getattr(torch, dtype)).save_pretrained(found[dtype])
    return found


@pytest.fixture
def dtypes_run(monkeypatch: pytest.MonkeyPatch) -> set[Any]:
    """The dtypes of all numbers that blocks computed with."""
    seen: set[Any] = set()
    plain = block_module.BlockState.__init__

    def noting(self: Any, *args: Any) -> None:
        plain(self, *args)
        seen.add(self.dtype)

    monkeypatch.setattr(block_module.BlockState, "__init__", noting)
    return seen


def run(model: Path, place: Path, *more: str, **switches: Any) -> list[list[int]]:
    """Tokens of the prompts that the model knows by heart."""
    policy, prompts, out = place / "policy.json", place / "in.txt", place / "out.jsonl"
    policy.write_text(json.dumps(THREE_TIERS | switches))
    prompts.write_text("\n".join(tiny_opt_prompts()[:4]))
    base = ["run", str(policy), "-o", str(out), "--model", str(model), "--prompts", str(prompts), "--device", "cpu"]
    result = CliRunner().invoke(
        app, [*base, "--offload-dir", str(place / "off"), "--max-new-tokens", "8", "--overwrite", *more]
    )
    assert result.exit_code == 0, result.output
    return [json.loads(line)["token_ids"] for line in out.read_text().splitlines()]


def bench(model: Path, place: Path, *more: str) -> dict[str, Any]:
    policy = place / "policy.json"
    policy.write_text(json.dumps(THREE_TIERS))
    base = ["bench", str(policy), "--model", str(model), "--device", "cpu", "--offload-dir", str(place / "off")]
    result = CliRunner().invoke(app, [*base, "--prompt-len", "9", "--max-new-tokens", "3", "--json", *more])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@each_dtype
def test_run_takes_the_checkpoints(
    dtype: str, models: dict[str, Path], dtypes_run: set[Any], tmp_path: Path, tiny_opt: Path
) -> None:
    assert run(models[dtype], tmp_path) == run(tiny_opt, tmp_path, "--dtype", "float32")
    assert dtypes_run == {getattr(torch, dtype), torch.float32}


@each_dtype
def test_run_takes_what_is_asked_for(dtype: str, models: dict[str, Path], dtypes_run: set[Any], tmp_path: Path) -> None:
    host = {"cpu_cache_compute": True}
    tokens = [run(models[stored], tmp_path, "--dtype", dtype, **host) for stored in ("float32", "bfloat16")]
    assert tokens[0] == tokens[1]
    assert dtypes_run == {getattr(torch, dtype)}


@each_dtype
def test_bench_takes_the_checkpoints_or_what_is_asked_for(dtype: str, models: dict[str, Path], tmp_path: Path) -> None:
    found, float32 = bench(models[dtype], tmp_path), bench(models[dtype], tmp_path, "--dtype", "float32")
    assert (found["dtype"], float32["dtype"]) == (dtype, "float32")
    for report in (found, float32):
        assert report["held_peak_bytes"] == report["planned_peak_bytes"]
        assert all(moved["counted"] == moved["planned"] > 0 for moved in report["moved_bytes"].values())
    share = found["moved_bytes"]["up_bytes"]["counted"] / float32["moved_bytes"]["up_bytes"]["counted"]
    assert share == pytest.approx(WIDTHS[dtype] / 4, rel=0.05)


@each_dtype
@pytest.mark.parametrize("sharded", [False, True])
def test_a_config_that_names_no_dtype_takes_that_of_the_tensors(
    dtype: str, sharded: bool, models: dict[str, Path], tmp_path: Path
) -> None:
    """As transformers does; and a plan reckons with what will run."""
    model = without_dtype(models[dtype], tmp_path / "model", sharded=sharded)
    shape, math = read_config(model)
    loaded = AutoModelForCausalLM.from_pretrained(model)
    assert (math.dtype, shape.bytes_per_element) == (dtype, WIDTHS[dtype])
    assert loaded.dtype == getattr(torch, dtype)
    plan = [
        "solve",
        "--model",
        str(model),
        "--gpu-mem",
        "300M",
        "--cpu-mem",
        "1G",
        "--prompt-len",
        "8",
        "--gen-len",
        "4",
    ]
    solved = CliRunner().invoke(app, [*plan, "--json"])
    assert json.loads(solved.stdout)["problem"]["model"]["bytes_per_element"] == WIDTHS[dtype]


def test_activations_beyond_float16_are_not_computed_in_it(tmp_path: Path) -> None:
    """A model that was trained in bfloat16, whose config does not say so."""
    config = LlamaConfig(**ROTARY)
    model = reference_model(config)
    for name, parameter in model.named_parameters():
        if "down_proj" in name:
            torch.nn.init.normal_(parameter, std=4e4)
    model.bfloat16().save_pretrained(tmp_path / "saved")
    directory = without_dtype(tmp_path / "saved", tmp_path / "model")
    prompts = [[5, 6, 7], [60, 3]]
    assert by_flexplan(directory, prompts, 6, tmp_path) == by_transformers(directory, prompts, 6)


def test_the_first_float_by_name_decides_among_several(tmp_path: Path) -> None:
    saved(LlamaConfig(**ROTARY), tmp_path / "saved")
    directory = without_dtype(tmp_path / "saved", tmp_path / "model")
    tensors = load_file(directory / SINGLE)
    changed = {name: t.half() if name == "lm_head.weight" else t for name, t in tensors.items()}
    save_file({"a_count": torch.ones(1, dtype=torch.int64)} | changed, directory / SINGLE)
    assert read_config(directory)[1].dtype == "float16"
    assert AutoModelForCausalLM.from_pretrained(directory).dtype == torch.float16


def test_an_index_that_names_a_dtype_comes_before_the_tensors(models: dict[str, Path], tmp_path: Path) -> None:
    directory = without_dtype(models["float32"], tmp_path / "model", sharded=True)
    index = json.loads((directory / INDEX).read_text())
    (directory / INDEX).write_text(json.dumps(index | {"metadata": index["metadata"] | {"dtype": "bfloat16"}}))
    assert read_config(directory)[1].dtype == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(directory).dtype == torch.bfloat16


def test_a_config_that_names_a_dtype_comes_before_both(models: dict[str, Path], tmp_path: Path) -> None:
    directory = without_dtype(models["float32"], tmp_path / "model")
    for key in ("dtype", "torch_dtype"):
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | {key: "bfloat16"}))
        assert read_config(directory)[1].dtype == "bfloat16"
        (directory / "config.json").write_text(json.dumps(config))


def test_tensors_wider_than_models_compute_are_refused_by_name(models: dict[str, Path], tmp_path: Path) -> None:
    directory = without_dtype(models["float32"], tmp_path / "model")
    save_file({name: t.double() for name, t in load_file(directory / SINGLE).items()}, directory / SINGLE)
    with pytest.raises(ModelFilesError, match="float64"):
        read_config(directory)


@pytest.mark.parametrize("content", [b"", b"no tensors at all", b"\xff" * 16, b"\x02" + b"\0" * 7 + b"[]"])
def test_files_that_cannot_be_read_say_nothing_about_the_dtype(
    content: bytes, models: dict[str, Path], tmp_path: Path
) -> None:
    directory = without_dtype(models["float32"], tmp_path / "model")
    (directory / SINGLE).write_bytes(content)
    assert read_config(directory)[1].dtype == "float16"


def without_dtype(model: Path, place: Path, *, sharded: bool = False) -> Path:
    """The same model, whose config names no dtype."""
    options = {"max_shard_size": "40KB"} if sharded else {}
    AutoModelForCausalLM.from_pretrained(model).save_pretrained(place, **options)
    config = json.loads((place / "config.json").read_text())
    config.pop("dtype")
    (place / "config.json").write_text(json.dumps(config))
    return place
