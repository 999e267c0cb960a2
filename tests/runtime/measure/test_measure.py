"""Measuring this machine gives a hardware file that planning reads."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from flexplan_runtime.measure import fingerprint, in_model, measure, prompts
from flexplan_runtime.measure import profile as measure_module
from flexplan_runtime.measure.in_model import Trial
from flexplan_runtime.measure.microbench import QUICK
from flexplan_runtime.measure.timing import Figure, timed
from flexplan_runtime.measure.trial_models import layer_bytes
from typer.testing import CliRunner

from flexplan.cli.app import app
from flexplan.graph import Span, Timeline
from flexplan.hardware import Hardware
from flexplan.model import ModelShape, model_shape
from flexplan.policy import Policy

HOST = torch.device("cpu")


def test_a_quick_measurement_is_a_whole_hardware_of_this_machine(tmp_path: Path) -> None:
    said: list[str] = []
    began = time.process_time()
    found = measure("cpu", tmp_path, said.append, QUICK)
    assert time.process_time() - began < 20
    assert not found.preset
    assert found.fingerprint == fingerprint(HOST)
    assert 1e6 < found.disk_write_bytes_per_s < 1e12
    assert found.disk_one_read_bytes_per_s is not None
    assert 1e6 < found.disk_one_read_bytes_per_s < 1e12
    assert 1e-6 <= found.kernel_s < 1  # the least of a profile: so short a measurement may see nothing of it
    assert found.host_bytes_per_s >= found.host_attention_bytes_per_s
    assert sum("+-" in line for line in said) > 12
    assert not list(tmp_path.iterdir())


def test_profile_writes_what_solve_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_module, "ON_CPU", QUICK)
    path = tmp_path / "hardware.json"
    args = ["profile", "-o", str(path), "--device", "cpu", "--offload-dir", str(tmp_path / "off")]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    assert "GB/s" in result.stdout
    assert Hardware.load(path).measured_on
    asked = ["solve", "--model", "opt-125m", "--hardware", str(path), "--prompt-len", "8", "--gen-len", "2"]
    solved = CliRunner().invoke(app, [*asked, "--gpu-mem", "1G", "--planner", "manual", "--json"])
    assert json.loads(solved.stdout)["problem"]["hardware"]["fingerprint"] == fingerprint(HOST)
    assert "a guess" not in CliRunner().invoke(app, [*asked, "--gpu-mem", "1G", "--planner", "manual"]).stdout


def test_a_median_is_not_moved_by_one_slow_run() -> None:
    assert Figure.of([1.0, 1.0, 1.0, 1.0, 50.0]).value == 1.0
    assert Figure.of([1.0, 2.0, 3.0]).spread_percent == 50


def test_a_duration_is_that_of_one_call() -> None:
    assert 0.01 <= timed(lambda: time.sleep(0.01), HOST, 0.05).value < 0.04  # not that of the ten or so that were timed


def test_figures_of_a_running_model_are_those_that_its_tasks_took() -> None:
    """A machine on paper: what each task takes is known, and comes out again."""
    told = {"attend": 80e9, "beside": 60e9, "further": 3e12, "start": 2e-4, "rest": 5e-5, "small": 6e-5, "link": 50e9}
    trials, link = _machine_on_paper(told)
    found = {name: f.value for name, f in in_model.attention_rates(trials, link).items()}  # type: ignore[arg-type]
    grouped = model_shape("meta-llama/Llama-2-7b-hf").model_copy(update={"num_kv_heads": 4})
    beside = Trial(grouped, replace(in_model.BESIDE, gpu_batch_size=320), Timeline())
    load_s, nbytes = _layer_s(beside, told), layer_bytes(grouped)
    assert found == pytest.approx(
        {
            "host_task_s": told["start"] + told["rest"],
            "host_attention_bytes_per_s": told["attend"],
            "host_attention_packed_bytes_per_s": told["attend"],
            "host_attention_flops_per_s": told["further"],
            "host_bytes_per_s": told["beside"] + nbytes / load_s,
            "copy_s": max(1e-9, load_s - nbytes / told["link"]),
            "small_copy_s": told["small"],
        },
        rel=0.01,
    )


def _machine_on_paper(told: dict[str, float]) -> tuple[SimpleNamespace, dict[str, Figure]]:
    trials = SimpleNamespace(
        model=lambda name, **sizes: (model_shape(name).model_copy(update=sizes), None),
        decoded=lambda model, policy: _on_paper(Trial(model[0], policy, Timeline()), told),
    )
    return trials, {name: Figure(told["link"], 0.0) for name in ("link_up_bytes_per_s", "link_down_bytes_per_s")}


def _attend_s(trial: Trial, told: dict[str, float]) -> float:
    if trial.policy.w_gpu_percent < 100:
        return told["start"] + trial.attended / told["beside"]
    flops = 2.0 * (trial.shape.group_size - 1) * trial.attended / trial.shape.bytes_per_element
    return told["start"] + trial.attended / told["attend"] + flops / told["further"]


def _layer_s(trial: Trial, told: dict[str, float]) -> float:
    return 3 * (_attend_s(trial, told) + told["rest"])


def _on_paper(trial: Trial, told: dict[str, float]) -> Timeline:
    shape, timeline, now = trial.shape, Timeline(), 0.0
    small_s = told["small"] + trial.policy.gpu_batch_size * shape.q_size * shape.bytes_per_element / told["link"]
    for i in (1, 2, 3):
        for j in range(shape.num_layers):
            if trial.policy.w_gpu_percent < 100:
                timeline.add(Span(f"load_weight@x[j={j}]", "h2d_weights", i, now, now + _layer_s(trial, told)))
            for _ in range(3):
                timeline.add(Span("send_query@x", "d2h", i, now, now + small_s))
                timeline.add(Span("attend@x", "cpu", i, now, now + _attend_s(trial, told)))
                timeline.add(Span("load_attention@x", "h2d_small", i, now, now + small_s))
                now += _attend_s(trial, told) + told["rest"]
    return timeline


def test_a_task_that_seems_to_take_no_time_is_still_a_figure() -> None:
    """Noise may tell the line through two batches to begin below zero, and copies to take less than their bytes."""
    told = {"attend": 80e9, "beside": 90e9, "further": -3e12, "start": -1e-4, "rest": 0.0, "small": -1.0, "link": 5e10}
    trials, link = _machine_on_paper(told)
    found = in_model.attention_rates(trials, link)  # type: ignore[arg-type]
    assert all(figure.value > 0 for figure in found.values())
    assert all(figure.value > 1 for name, figure in found.items() if name.endswith("per_s"))


def test_prompts_of_two_families_tell_products_from_what_runs_between_them() -> None:
    rates, fixed = (700e12, 2.5e12), {"kernel_s": 5e-6, "product_s": 1e-5, "launch_s": 3e-7}

    def timelines(model: tuple[ModelShape, None], policy: Policy, new: int, times: int, *, hot: bool) -> list[Timeline]:
        assert hot, "a cool device is quicker"
        layer, timeline = prompts._layer(model[0], policy), Timeline()
        took_s = layer.gpu_flops / rates[0] + layer.gpu_between_bytes / rates[1] + fixed["kernel_s"]
        took_s += layer.products * fixed["product_s"] + layer.kernels * fixed["launch_s"]
        for n in range(6):
            timeline.add(Span(f"compute@gpu[j={n}]", "gpu", 0, n, n + (took_s if 0 < n < 5 else 0.5)))
        return [timeline] * times

    trials = SimpleNamespace(model=lambda name, **sizes: (model_shape(name), None), timelines=timelines)
    told = {name: Figure(seconds, 0.0) for name, seconds in (fixed | {"gpu_bytes_per_s": 4e12}).items()}
    found = prompts.prompt_rates(trials, told, 4)  # type: ignore[arg-type]
    assert [f.value for f in found.values()] == pytest.approx(rates, rel=1e-3)
