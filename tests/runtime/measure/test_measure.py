"""Measuring this machine gives a hardware file that planning reads."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from flexplan_runtime.measure import fingerprint, in_model, measure
from flexplan_runtime.measure import profile as measure_module
from flexplan_runtime.measure.microbench import QUICK
from flexplan_runtime.measure.timing import Figure, timed
from typer.testing import CliRunner

from flexplan.cli.app import app
from flexplan.graph import Timeline
from flexplan.hardware import Hardware
from flexplan.model import model_shape

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


def test_a_task_that_seems_to_take_no_time_is_still_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise may tell the line through two batches to begin below zero."""
    took = iter([Figure(1e-3, 0.0), Figure(1e-6, 0.0), Figure(1e-3, 0.0), Figure(1e-3, 0.0)])
    monkeypatch.setattr(in_model, "_seconds", lambda timeline: next(took))
    monkeypatch.setattr(in_model, "_copied", lambda shape, timeline: 1e9)
    trials = SimpleNamespace(
        model=lambda name, **sizes: (model_shape(name), None), decoded=lambda model, policy: Timeline()
    )
    found = in_model.attention_rates(trials)  # type: ignore[arg-type]
    assert 0 < found["host_task_s"].value <= 1e-6
    assert all(figure.value > 1 for name, figure in found.items() if name.endswith("per_s"))
