"""`flexplan doctor` and `--version`: what there is, what is missing, and what that costs."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from typer.testing import CliRunner

import flexplan
from flexplan.cli import doctor
from flexplan.cli.app import app
from flexplan.job import Finding

NO_TORCH = """
import sys
sys.modules["torch"] = None
from flexplan.cli.app import main
main()
"""


def states() -> dict[str, tuple[str, str]]:
    return {finding.part: (finding.state, finding.costs) for finding in doctor.examine()}


def other_versions(monkeypatch: pytest.MonkeyPatch, **given: str | None) -> None:
    real = doctor.version

    def version(name: str) -> str:
        found = given.get(name, real(name) if name not in given else "")
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(doctor, "version", version)


def test_the_version_is_said_and_nothing_runs() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"flexplan {flexplan.__version__}\n")


def test_a_whole_installation_is_ok() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    found = json.loads(result.stdout)
    assert (result.exit_code, found["ok"]) == (0, True), result.stdout
    parts = {finding["part"]: finding["state"] for finding in found["findings"]}
    assert {"python", "flexplan", "pydantic", "highspy", "solver", "cache", "memory"} <= parts.keys()
    assert parts["solver"] == parts["highspy"] == "ok"
    assert "solver" in CliRunner().invoke(app, ["doctor"]).stdout


def test_without_torch_planning_is_whole_and_what_is_missing_has_its_price() -> None:
    command = [sys.executable, "-c", NO_TORCH, "doctor", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    found = {finding["part"]: finding for finding in json.loads(result.stdout)["findings"]}
    assert result.returncode == 0
    assert found["runtime torch"]["state"] == "missing" and "planning does" in found["runtime torch"]["costs"]
    assert found["solver"]["state"] == "ok"


def test_a_version_outside_its_range_and_a_lacking_package_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    other_versions(monkeypatch, pulp="5.1", torch=None, highspy=None)
    found = states()
    assert found["pulp"][0] == found["highspy"][0] == "broken"
    assert found["torch"][0] == "missing" and "run" in found["torch"][1]
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 2


def test_a_solver_that_fails_and_a_cache_that_may_not_be_written_are_broken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise OSError("no solver")

    (tmp_path / "file").touch()
    monkeypatch.setattr("flexplan.plan.solve", fails)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found = states()
    assert found["solver"][0] == found["cache"][0] == "broken"
    assert doctor.broken([Finding("x", "broken", "")]) and not doctor.broken([Finding("x", "missing", "")])


@pytest.mark.parametrize(
    ("version", "wanted", "holds"),
    [
        ("2.13.0+cpu", ">=2.11", True),
        ("2.14.0rc1", ">=2.11", True),
        ("0.15.4", ">=0.16", False),
        ("5.0", "<5,>=3.3.2", False),
        ("3.3.2", "<5,>=3.3.2", True),
        ("1", "!=1.0", False),
        ("9", "", True),
    ],
)
def test_ranges_are_read_as_pip_reads_them(version: str, wanted: str, holds: bool) -> None:
    assert doctor.within(version, wanted) is holds
