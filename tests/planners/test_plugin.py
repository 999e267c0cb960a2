"""A planner and a schedule from a package of their own, installed and loaded through the door that ours use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "greedy_planner"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that the example was installed into: no network, no dependencies."""
    pytest.importorskip("hatchling")
    target = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    installed = run("-m", "pip", "install", *options, str(EXAMPLE))
    assert installed.returncode == 0, installed.stderr
    return target


def run(*arguments: str, plugin: Path | None = None) -> subprocess.CompletedProcess[str]:
    paths = [str(plugin)] if plugin else []
    paths += [path for path in sys.path if path and Path(path).is_dir()]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_entry_points_are_found(plugin: Path) -> None:
    code = """
from flexplan.plugins import PLANNERS, SCHEDULES, available
print(available(PLANNERS)["greedy"].value, available(SCHEDULES)["reversed"].value)
"""
    found = run("-c", code, plugin=plugin)
    assert found.stdout.split() == ["greedy_planner.planner:GreedyPlanner", "greedy_planner.schedule:Reversed"]


def test_both_keep_their_contracts(plugin: Path) -> None:
    tests = str(EXAMPLE / "tests" / "test_contract.py")
    result = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(plugin), tests, plugin=plugin)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout


def test_the_search_plans_for_a_third_party_schedule(plugin: Path) -> None:
    code = """
from flexplan.plan import solve
from flexplan.testing import small_problem
plan = solve(small_problem(), "search", schedule="reversed")
print(plan.schedule, [sweep.ks for sweep in plan.graph.sweeps()][0])
"""
    found = run("-c", code, plugin=plugin)
    assert found.stdout.startswith("reversed ("), found.stderr
