"""Plans in the words of other systems: nothing over a budget, the difference said, no counterpart named."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from typer.testing import CliRunner

from flexplan.cli.app import app
from flexplan.errors import InfeasiblePlan, PolicyError, UsageError
from flexplan.export import export_plan, export_text
from flexplan.export.device_map import device_map, nearest_cut
from flexplan.export.module_names import transformers_modules
from flexplan.model import model_shape, weight_bytes
from flexplan.plan import Plan
from flexplan.problem import Problem
from flexplan.testing import policy_with

LLAMA, OPT, MIXTRAL = "meta-llama/Llama-2-7b-hf", "facebook/opt-1.3b", "mistralai/Mixtral-8x7B-v0.1"


def plan(*shares: float, model: str = LLAMA, gpu: str = "80G", cpu: str = "200G", **fields: Any) -> Plan:
    asked = Problem.of(model, gpu_mem=gpu, cpu_mem=cpu, disk_mem="500G", prompt_len=64, gen_len=8)
    return Plan.of(asked, policy_with(4, 2, w=shares[:2], cache=shares[2:] or (100, 0), **fields))


def words(found: list[str], flag: str) -> list[str]:
    return [found[at + 1] for at, word in enumerate(found) if word == flag]


# -- device maps -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "model", [LLAMA, OPT, MIXTRAL, "Qwen/Qwen2.5-0.5B", "facebook/opt-350m", "facebook/galactica-30b"]
)
def test_modules_hold_all_weights_once(model: str) -> None:
    shape = model_shape(model)
    modules = transformers_modules(shape)
    assert sum(module.nbytes for module in modules) == weight_bytes(shape)
    assert len({module.name for module in modules}) == len(modules)


@pytest.mark.parametrize("shares", [(100, 0), (0, 100), (0, 0), (37, 63), (20, 30), (5, 90)])
def test_a_device_map_comes_within_half_a_module_of_the_plan(shares: tuple[float, float]) -> None:
    asked = plan(*shares)
    found = device_map(asked).export
    largest = max(m.nbytes for m in transformers_modules(asked.problem.model)) / weight_bytes(asked.problem.model)
    assert found.given["w"] == pytest.approx(found.asked["w"], abs=100 * largest)
    assert sum(found.given["w"]) == pytest.approx(100)


def test_a_tied_head_is_where_its_table_is() -> None:
    found = device_map(plan(50, 50, model=OPT))
    assert found["lm_head"] == found["model.decoder.embed_tokens"] == 0
    assert found["model.decoder.layers.23"] == "cpu"


def test_a_full_tier_gets_no_more_than_the_plan_gives_it() -> None:
    """Half of ten modules is five; with room for four, four."""
    sizes = [10] * 10
    assert nearest_cut(sizes, [52, 48, 0], [100, 100, 0]) == (5, 10)
    assert nearest_cut(sizes, [52, 48, 0], [49, 100, 0]) == (4, 10)
    with pytest.raises(InfeasiblePlan, match="whole modules"):
        nearest_cut(sizes, [52, 48, 0], [55, 45, 0])


def test_the_gpu_may_have_another_name() -> None:
    assert set(device_map(plan(100, 0), gpu="cuda:1").values()) == {"cuda:1"}


# -- llama.cpp ---------------------------------------------------------------------------------------------------
def gguf_names(shape: Any) -> dict[str, int]:
    """The matrices of a Llama in a GGUF file, and their elements."""
    h, f, kv = shape.hidden_size, shape.ffn_size, shape.kv_size
    found = {"token_embd.weight": shape.vocab_size * h, "output.weight": shape.vocab_size * h}
    for n in range(shape.num_layers):
        attn = {"q": h * h, "k": h * kv, "v": h * kv, "output": h * h}
        ffn = {"gate": h * f, "up": h * f, "down": h * f}
        found |= {f"blk.{n}.attn_{k}.weight": v for k, v in attn.items()}
        found |= {f"blk.{n}.ffn_{k}.weight": v for k, v in ffn.items()}
        found |= {f"blk.{n}.attn_norm.weight": h, f"blk.{n}.ffn_norm.weight": h}
    return found


@pytest.mark.parametrize("share", [90, 60, 33, 10, 3])
def test_llama_cpp_gets_the_share_of_the_weights(share: float) -> None:
    """Matched as llama.cpp matches: an expression found anywhere in a tensor's name."""
    asked = plan(share, 100 - share)
    found = export_plan(asked, "llama.cpp")
    names = gguf_names(asked.problem.model)
    (layers,) = words(found.settings, "--n-gpu-layers")  # type: ignore[arg-type]
    assert int(layers) == asked.problem.model.num_layers + 1
    overrides = [word.removesuffix("=CPU") for word in words(found.settings, "--override-tensor")]  # type: ignore[arg-type]
    host = sum(n for name, n in names.items() if any(re.search(o, name) for o in overrides) or "token_embd" in name)
    assert 100 * host / sum(names.values()) == pytest.approx(found.given["w"][1], abs=0.01)
    assert found.given["w"][0] == pytest.approx(share, abs=2)
    assert not any("," in o or "=" in o for o in overrides), "llama.cpp splits at these"


def test_nothing_on_the_gpu_is_no_layers() -> None:
    found = export_plan(plan(0, 100), "llama.cpp")
    assert words(found.settings, "--n-gpu-layers") == ["0"]  # type: ignore[arg-type]
    assert "--override-tensor" not in found.settings


def test_a_mixture_keeps_its_experts_by_name() -> None:
    found = export_plan(plan(30, 70, model=MIXTRAL), "llama.cpp")
    (pattern,) = words(found.settings, "--override-tensor")  # type: ignore[arg-type]
    pattern = pattern.removesuffix("=CPU")
    assert re.search(pattern, "blk.0.ffn_up_exps.weight")
    assert not re.search(pattern, "blk.0.ffn_gate_inp.weight"), "the router is small"


def test_a_cache_on_the_host_stays_there() -> None:
    found = export_plan(plan(50, 50, 0, 100, cpu_cache_compute=True), "llama.cpp")
    assert "--no-kv-offload" in found.settings
    assert words(found.settings, "--parallel") == ["8"]  # type: ignore[arg-type]
    assert words(found.settings, "--ctx-size") == [str(8 * 72)]  # type: ignore[arg-type]


def test_a_split_cache_runs_as_many_sequences_as_fit_one_tier() -> None:
    asked = plan(50, 50, 60, 40)
    budgets = {f"{t}_bytes": asked.problem.budget_for(t, n) for t, n in asked.prediction.peak_bytes.items()}
    problem = asked.problem.model_copy(update={"hardware": asked.problem.hardware.model_copy(update=budgets)})
    found = export_plan(Plan.of(problem, asked.policy), "llama.cpp")
    assert words(found.settings, "--parallel") in (["4"], ["5"])  # type: ignore[arg-type]
    assert any("sequences at a time, the plan 8" in line for line in found.differences)


# -- vLLM --------------------------------------------------------------------------------------------------------
def test_vllm_offloads_what_is_on_the_host() -> None:
    asked = plan(75, 25, 50, 50)
    found = export_plan(asked, "vllm")
    text = export_text(found)
    gib = weight_bytes(asked.problem.model) / 2**30 / 4
    assert float(words(found.settings, "--cpu-offload-gb")[0]) == pytest.approx(gib, abs=0.011)  # type: ignore[arg-type]
    assert text.startswith("--max-num-seqs 4 --max-model-len 72 ")
    assert "--kv-offloading-backend native --kv-offloading-size" in text


def test_all_on_the_gpu_offloads_nothing() -> None:
    assert export_text(export_plan(plan(100, 0), "vllm")) == "--max-num-seqs 8 --max-model-len 72"


# -- no counterpart ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("to", "asked", "named"),
    [
        ("llama.cpp", {"shares": (20, 30)}, "w_disk_percent 50"),
        ("llama.cpp", {"shares": (100, 0, 50, 25)}, "cache_disk_percent 25"),
        ("llama.cpp", {"shares": (100, 0), "model": OPT}, "the family opt"),
        ("vllm", {"shares": (20, 30)}, "w_disk_percent 50"),
        ("vllm", {"shares": (100, 0, 0, 100)}, "cache_gpu_percent 0"),
    ],
)
def test_what_has_no_counterpart_is_named(to: str, asked: dict[str, Any], named: str) -> None:
    with pytest.raises(PolicyError, match=f"{to} has no counterpart of {named}") as refusal:
        export_plan(plan(*asked.pop("shares"), **asked), to)
    assert refusal.value.fix


def test_an_unknown_system_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean"):
        export_plan(plan(100, 0), "lama.cpp")


def test_the_command_prints_settings_apart_from_differences(tmp_path: Any) -> None:
    path = tmp_path / "plan.json"
    plan(50, 50, 50, 50).save(path)
    shown = CliRunner().invoke(app, ["export", str(path), "--to", "device-map"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["model.embed_tokens"] == 0
    assert "weights: plan 50.0 / 50.0 / 0.0" in shown.stderr
    both = json.loads(CliRunner().invoke(app, ["export", str(path), "--to", "vllm", "--json"]).stdout)
    assert set(both) == {"system", "settings", "asked", "given", "differences"}
    assert CliRunner().invoke(app, ["export", str(path), "--to", "tgi"]).exit_code == 2
