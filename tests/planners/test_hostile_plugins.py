"""Planners of other packages may do what they like: an answer, or an error that names them, comes within their time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import hostile
import pytest
from typer.testing import CliRunner

from flexplan.cli.app import app
from flexplan.errors import InfeasiblePlan, PluginError, UsageError
from flexplan.plan import Plan, solve
from flexplan.testing import small_problem

BROKEN = {
    "Raises": ("FP903", "on purpose"),
    "Exits": ("FP903", "SystemExit"),
    "Recurses": ("FP903", "RecursionError"),
    "ReturnsText": ("FP904", "returned str"),
    "NotANumber": ("FP906", "NaN"),
    "OutOfRange": ("FP906", "w_gpu_percent"),
    "OverBudget": ("FP906", "gpu needs"),
    "AnotherProblem": ("FP906", "another problem"),
    "AMillionTasks": ("FP906", "200000 micro-batches"),
    "NoSuchSchedule": ("FP906", "boustrophedon"),
    "HalfAPlan": ("FP906", "policy"),
}
BROKEN_SANDBOXED = {
    "Dies": ("FP903", "exit code 3"),
    "Floods": ("FP903", "allowed"),
    "FloodsForEver": ("FP903", "allowed"),
    "KillsItsParent": ("FP903", "no answer"),
}
HANG = ("Hangs", "HoldsTheInterpreter", "IgnoresAll", "Stops")
SANDBOXED = (
    "LeavesASession",
    "ReturnsTwice",
    *HANG[1:],
    "Good",
    "Noisy",
    "Boastful",
    "Refuses",
    "Hangs",
    "LeavesAChild",
    *BROKEN,
    *BROKEN_SANDBOXED,
)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose planners are ``hostile-Raises`` and so on, and two that do not even load."""
    (tmp_path / "hostile.py").write_text(Path(hostile.__file__).read_text())
    (tmp_path / "hostile_at_import.py").write_text("while True:\n    pass\n")
    info = tmp_path / "hostile-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 0.1\n")
    points = [f"hostile-{name} = hostile:{name}" for name in SANDBOXED]
    points += ["hostile-missing = hostile:Missing", "hostile-import = hostile_at_import:Planner"]
    (info / "entry_points.txt").write_text("\n".join(["[flexplan.planners]", *points]))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_good_planner_is_believed() -> None:
    plan = solve(small_problem(), hostile.Good())
    assert plan.planner == "good" and plan.policy == hostile.Good.policy
    assert plan.to_json() == Plan.of(small_problem(), hostile.Good.policy, planner="good").to_json()


def test_a_prediction_is_made_anew() -> None:
    assert solve(small_problem(), hostile.Boastful()).to_json() == solve(small_problem(), hostile.Good()).to_json()


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_with_an_instance_is_said_with_its_name(name: str) -> None:
    code, words = BROKEN[name]
    with pytest.raises(PluginError, match=f"planner {name} .*{words}") as error:
        solve(small_problem(), getattr(hostile, name)())
    assert error.value.code == code and error.value.fix


def test_an_instance_that_hangs_is_left_behind() -> None:
    with pytest.raises(PluginError, match=r"planner Hangs gave no answer within 0\.2 s"):
        solve(small_problem(), hostile.Hangs(), timeout_s=0.2)


def test_a_refusal_keeps_its_numbers() -> None:
    with pytest.raises(InfeasiblePlan, match="too small for me") as refusal:
        solve(small_problem(), hostile.Refuses())
    assert refusal.value.binding == ("gpu",) and refusal.value.smallest_budget_bytes["gpu"] == 1 << 40


# -- by name: in a process of their own ----------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["Raises", "Exits", "NotANumber", "OverBudget", "AMillionTasks", *BROKEN_SANDBOXED])
def test_what_is_wrong_with_a_plugin_is_said_with_its_name(name: str, installed: Path) -> None:
    code, words = (BROKEN | BROKEN_SANDBOXED)[name]
    with pytest.raises(PluginError, match=f"planner hostile-{name} .*{words}") as error:
        solve(small_problem(), f"hostile-{name}")
    assert error.value.code == code


@pytest.mark.parametrize("name", [*HANG, "import"])
def test_a_plugin_that_hangs_is_stopped(name: str, installed: Path) -> None:
    began = time.monotonic()
    with pytest.raises(PluginError, match=f"planner hostile-{name} gave no answer within 1 s"):
        solve(small_problem(), f"hostile-{name}", timeout_s=1)
    assert time.monotonic() - began < 60  # of the 600 s that it would take; the machine may be busy


def test_what_a_plugin_prints_is_not_its_answer(installed: Path) -> None:
    assert solve(small_problem(), "hostile-Noisy").planner == "good"


@pytest.mark.parametrize("name", ["LeavesAChild", "LeavesASession"])
def test_what_a_plugin_leaves_running_is_ended(name: str, installed: Path) -> None:
    pid_file = installed / "pid"
    assert solve(small_problem(), f"hostile-{name}", pid_file=str(pid_file)).planner == "good"
    assert not is_running(int(pid_file.read_text()))


def test_a_plugin_that_forks_answers_once(installed: Path) -> None:
    assert solve(small_problem(), "hostile-ReturnsTwice").planner == "good"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_planner_does_ends_with_the_program(number: int, installed: Path) -> None:
    pid_file = installed / "pid"
    code = (
        "from flexplan import solve; from flexplan.testing import small_problem\n"
        f"solve(small_problem(), 'hostile-LeavesASession', pid_file={str(pid_file)!r}, hang=True)"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    child = subprocess.Popen([sys.executable, "-c", code], env=env)
    deadline = time.monotonic() + 30
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(number)
    child.wait()
    while is_running(int(pid_file.read_text())) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(int(pid_file.read_text()))


def is_running(pid: int) -> bool:
    """Neither gone nor a zombie that nobody waits for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_refusal_by_name_keeps_its_numbers(installed: Path) -> None:
    with pytest.raises(InfeasiblePlan, match="too small for me") as refusal:
        solve(small_problem(), "hostile-Refuses")
    assert refusal.value.smallest_budget_bytes == {"gpu": 1 << 40, "cpu": None, "disk": None}


def test_a_plugin_that_does_not_load_is_named(installed: Path) -> None:
    with pytest.raises(PluginError, match=r"hostile-missing.* does not load"):
        solve(small_problem(), "hostile-missing")


def test_options_are_plain_data(installed: Path) -> None:
    with pytest.raises(PluginError, match="hostile-Good does not take"):
        solve(small_problem(), "hostile-Good", weights=object())
    with pytest.raises(PluginError, match="hostile-Good does not take"):
        solve(small_problem(), "hostile-Good", depth=3)


def test_an_unknown_name_is_a_wrong_name(installed: Path) -> None:
    with pytest.raises(UsageError, match="no planner is called 'hostile-Goood'"):
        solve(small_problem(), "hostile-Goood")


def test_the_command_line_has_the_limit(installed: Path) -> None:
    asked = ["solve", "--model", "facebook/opt-125m", "--prompt-len", "16", "--gen-len", "2"]
    result = CliRunner().invoke(app, [*asked, "--planner", "hostile-Hangs", "--planner-timeout", "0.5"])
    assert result.exit_code == 3
    assert "planner hostile-Hangs gave no answer within 0.5 s" in result.stderr

    assert CliRunner().invoke(app, [*asked, "--planner-timeout", "-1"]).exit_code == 2
