"""The dtype is the checkpoint's unless another is asked for, in `run` and `bench`, from weights to tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from flexplan_runtime import job as job_module  # noqa: E402  (after importorskip)
from flexplan_runtime.embedded import tiny_opt_prompts  # noqa: E402
from policies import THREE_TIERS  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from flexplan.cli import app  # noqa: E402

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
    """The dtypes of all numbers that jobs computed with."""
    seen: set[Any] = set()
    plain = job_module.Job.__init__

    def noting(self: Any, *args: Any) -> None:
        plain(self, *args)
        seen.add(self.dtype)

    monkeypatch.setattr(job_module.Job, "__init__", noting)
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
