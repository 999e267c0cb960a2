"""The examples of the planner as a library: they run, and the fleet's schedule beats those that do not predict."""

from __future__ import annotations

import random
import runpy
from itertools import product
from math import inf
from pathlib import Path
from types import SimpleNamespace

import pytest

from flexplan.hardware import hardware_from

EXAMPLES = Path(__file__).parents[2] / "examples"
FLEET = """
[[machine]]
name = "slow"
hardware = "slow.json"
gpu_mem = "2G"
cpu_mem = "8G"
disk_mem = 0

[[machine]]
name = "fast"
hardware = "rtx4090"
gpu_mem = "300M"
cpu_mem = "8G"
disk_mem = 0
"""
JOB = """
[[job]]
name = "{}"
model = "facebook/opt-{}"
num_prompts = {}
prompt_len = 32
gen_len = {}
"""


@pytest.fixture(scope="module")
def fleet() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(EXAMPLES / "schedule_a_fleet.py")))


def random_seconds(seed: int, num_jobs: int = 6, num_machines: int = 3) -> list[list[float]]:
    draw = random.Random(seed)
    rows = [[draw.lognormvariate(3, 1) for _ in range(num_machines)] for _ in range(num_jobs)]
    for row in rows:
        if draw.random() < 0.3:
            row[draw.randrange(num_machines)] = inf
    return rows


def test_predictions_beat_those_who_do_not_ask(fleet: SimpleNamespace) -> None:
    better, best = 0, []
    for seed in range(100):
        seconds = random_seconds(seed)
        ours = fleet.makespan(fleet.by_prediction(seconds), seconds)
        others = [fleet.makespan(f(seconds), seconds) for f in (fleet.first_fit, fleet.round_robin)]
        assert ours <= min(others)
        better += ours < min(others)
        optimum = min(fleet.makespan(list(a), seconds) for a in product(range(3), repeat=6))
        best.append(ours / optimum)
    assert better > 90
    assert max(best) < 1.3 and sum(best) / len(best) < 1.01


def test_a_job_is_never_where_it_does_not_fit(fleet: SimpleNamespace) -> None:
    seconds = [[inf, 5.0], [1.0, inf], [2.0, 2.0]]
    for schedule in (fleet.first_fit, fleet.round_robin, fleet.by_prediction):
        assert fleet.makespan(schedule(seconds), seconds) < inf


def test_the_fleet_example_schedules_hardware_files(
    fleet: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two machines, one of them from a profile's file: small models run where they fit, long jobs apart."""
    hardware_from("t4-gcp").save(tmp_path / "slow.json")
    jobs = [("many", "125m", 64, 4), ("long", "350m", 16, 16), ("few", "125m", 8, 4), ("more", "350m", 64, 4)]
    (tmp_path / "fleet.toml").write_text(FLEET + "".join(JOB.format(*job) for job in jobs))
    monkeypatch.setattr("sys.argv", ["schedule_a_fleet.py", str(tmp_path / "fleet.toml")])
    runpy.run_path(str(EXAMPLES / "schedule_a_fleet.py"), run_name="__main__")
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["seconds", "of", "slow", "fast"]
    assert all(any(line.startswith(job[0]) and line.count("*") == 1 for line in shown) for job in jobs)
    spans = {line.split("  ")[0]: float(line.split("done after ")[1].removesuffix(" s")) for line in shown[-3:]}
    assert spans["by prediction"] <= min(spans["first-fit"], spans["round-robin"])


def test_the_numbers_come_out(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "just_the_numbers.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert shown.count("tokens/s") == 5 and "too small: gpu" in shown
