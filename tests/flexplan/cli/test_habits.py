"""What people expect of a command line: completion, quiet and verbose, no colours, progress that suits a log."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flexplan.cli import progress
from flexplan.cli.app import app
from flexplan.cli.progress import Progress
from flexplan.job import Standing

SMALL = ("--model", "opt-125m", "--prompt-len", "8", "--gen-len", "2", "--planner", "manual")


def call(*args: str | Path, **env: str) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="flexplan", env=env)


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    yield
    progress.be(quiet=False, verbose=False)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("rep", "report"),
        ("solve --eff", "--effort"),
        ("solve --model facebook/opt-17", "facebook/opt-175b"),
        ("solve --hardware h100", "h100-pcie5"),
        ("solve --planner l", "lp"),
        ("solve --schedule row", "rowwise"),
        ("solve --effort t", "thorough"),
        ("solve --format j", "jsonl"),
        ("run plan.json --dtype b", "bfloat16"),
        ("export plan.json --to v", "vllm"),
    ],
)
def test_a_shell_is_offered_names(typed: str, offered: str) -> None:
    words = f"flexplan {typed}"
    asked = {"_FLEXPLAN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    result = call(**asked)
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [offered]


@pytest.mark.parametrize("place", ["before", "after"])
def test_quiet_leaves_notes_out_and_nothing_else(place: str, tmp_path: Path) -> None:
    plan, page = tmp_path / "plan.json", tmp_path / "report.html"
    assert call("solve", *SMALL, "-o", plan).exit_code == 0
    command = ("report", plan, "-o", page)
    loud = call(*command)
    quiet = call("-q", *command) if place == "before" else call(*command, "--quiet")
    assert "written to" in loud.stderr and "replaced" not in loud.stderr
    assert quiet.exit_code == 0 and quiet.stderr == ""
    assert page.exists()
    refused = call("report", tmp_path / "absent", "-q")
    assert refused.exit_code == 2 and "error[FP209]" in refused.stderr


def test_quiet_and_verbose_exclude_each_other() -> None:
    result = call("planners", "-q", "-v")
    assert result.exit_code == 2 and "error[FP134]" in result.stderr


@pytest.mark.parametrize(("verbose", "num_lines"), [(False, 4), (True, 37)])
def test_a_log_has_a_line_soon_and_then_one_a_minute(
    verbose: bool, num_lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A token a second for three minutes; verbosely a line every five seconds."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    progress.be(quiet=False, verbose=verbose)
    with Progress() as told:
        told.stage("generating")
        for second in range(186):
            now[0] = float(second)
            told.tokens(second, 200)
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "generating"
    counted = [line for line in lines if "tokens/s" in line]
    assert counted[0] == "5 of 200 tokens, 1.0 tokens/s, 195 s left"
    assert len(counted) == num_lines
    assert ("generating took 185 s" in lines) == verbose


def test_a_job_says_requests_rates_and_what_its_seats_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A token a second for a minute, then two; answers end at half of what they were allowed."""
    now, had = [0.0], 0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    progress.be(quiet=False, verbose=True)
    with Progress(None, 40) as told:
        told.stage("generating")
        for second in range(121):
            now[0], had = float(second), had + (1 if second <= 60 else 2)
            told.num_ended = had // 10
            told.standing(Standing(had, had, 3, 4, 30, 40))
            told.tokens(had, 800)
    last = [line for line in capsys.readouterr().err.splitlines() if "requests" in line][-1]
    assert last.startswith("18 of 40 requests, 181 tokens, 2.0 tokens/s now, 1.5 in the mean, ")
    assert "145 s left" in last  # for 219 of the 400 tokens that come, at the rate of all so far
    assert last.endswith("3 of 4 rows live, 75 % of the cache in use")


@pytest.mark.parametrize(("colour", "plain"), [({}, False), ({"NO_COLOR": "1"}, True)])
def test_no_color_means_no_codes_on_a_terminal_either(colour: dict[str, str], plain: bool) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from flexplan.cli.app import main; main()", "planners"]
    env = environment | {"TERM": "xterm-256color"} | colour
    subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, env=env, timeout=120, check=True)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    os.close(theirs)
    assert "zigzag" in shown
    assert ("\x1b[" not in shown) == plain


@pytest.mark.parametrize("colour", ["", "1"])
def test_no_color_means_lines_instead_of_a_bar(colour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress and spinners on a terminal: drawn over with codes, or said in lines as in a log."""
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", colour)
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        shown = ""
        with progress.busy("searching"):
            while not colour and "searching" not in shown:  # a spinner is drawn by a thread of its own, some time later
                shown += os.read(ours, 1 << 16).decode()
        with Progress() as told:
            told.stage("generating")
            told.tokens(1, 2)
        terminal.flush()
        shown += os.read(ours, 1 << 16).decode()
    os.close(ours)
    if colour:
        assert shown == "generating\r\n"
    else:
        assert "\x1b[?25l" in shown and "searching" in shown
