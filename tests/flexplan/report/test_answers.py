"""Standard output holds answers and nothing else, as a program that reads it sees it: whole processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = "from flexplan.cli.app import main; main()"
LOUD = """
import os
import flexplan.plan as planning
quiet = planning.solve
def loud(*args, **kwargs):
    print("from Python", flush=True)
    os.write(1, b"from C\\n")
    os.system("echo from a child")
    return quiet(*args, **kwargs)
planning.solve = loud
"""
SMALL = ("solve", "--gpu-mem", "200M", "--cpu-mem", "1G", "--model", "opt-125m", "--prompt-len", "16", "--gen-len", "4")


def python(text: str, *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", text, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("answers") / "policy.json"
    assert python(PROGRAM, *SMALL, "-o", path, "--json").returncode == 0
    return path


@pytest.mark.parametrize("command", ["solve", "simulate", "explain", "export", "planners", "doctor"])
def test_json_on_standard_output_is_json_whatever_the_solver_prints(command: str, policy: Path) -> None:
    args = {
        "solve": SMALL,
        "export": ("export", policy, "--to", "llama.cpp"),
        "planners": ("planners",),
        "doctor": ("doctor",),
    }
    result = python(PROGRAM, *args.get(command, (command, policy)), "--json")
    assert json.loads(result.stdout), result.stderr
    assert "HiGHS" not in result.stderr


def test_what_libraries_print_while_a_command_works_goes_to_standard_error() -> None:
    result = python(LOUD + PROGRAM, *SMALL, "--json")
    assert json.loads(result.stdout)["policy"]
    for where in ("from Python", "from C", "from a child"):
        assert where in result.stderr.splitlines()


def test_the_name_of_standard_output_is_where_answers_go(tmp_path: Path) -> None:
    result = python(LOUD + PROGRAM, *SMALL, "-o", "/dev/stdout")
    plan, _, table = result.stdout.partition("\n}\n")
    assert json.loads(plan + "}")["policy"] and "tokens per second" in table
    shown = tmp_path / "shown"
    with shown.open("w") as out:
        command = [sys.executable, "-c", LOUD + PROGRAM, *SMALL, "--json"]
        assert subprocess.run(command, stdout=out, stderr=subprocess.DEVNULL, check=False, timeout=120).returncode == 0
    assert json.loads(shown.read_text())["policy"]


def test_an_error_as_json_and_help_are_answers_too() -> None:
    refused = python(PROGRAM, "solve", "--gpu-mem", "much", "--json")
    assert json.loads(refused.stdout)["error"]["exit"] == refused.returncode == 2
    assert "Usage" in python(PROGRAM, "solve", "--help").stdout


def test_a_library_writes_nothing_to_standard_output() -> None:
    text = """
from flexplan import Problem, explain, simulate, solve
plan = solve(Problem.of("opt-125m", gpu_mem="200M", cpu_mem="1G", prompt_len=16, gen_len=4, num_prompts=8))
simulate(plan), explain(plan)
"""
    result = python(text)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_answers_and_noise_may_share_one_file(tmp_path: Path) -> None:
    both = tmp_path / "both"
    with both.open("w") as out:
        command = [sys.executable, "-c", LOUD + PROGRAM, *SMALL]
        subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=True, timeout=120, env=dict(os.environ))
    assert "from C" in both.read_text() and "tokens per second" in both.read_text()
