"""Ctrl-C, SIGTERM and SIGHUP end the program quietly whenever they come."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

_PROGRAM = "import sys; sys.argv[0] = 'flexplan'; from flexplan.cli.app import main; main()"
_SWALLOWS = "import os, signal\ntry:\n    os.kill(os.getpid(), signal.{0})\nexcept BaseException:\n    pass\n{1}\n"


def program(*args: str, paths: tuple[Path, ...] = ()) -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, paths), *filter(None, sys.path)])}
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", _PROGRAM, *args]
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env, preexec_fn=_as_on_a_terminal
    )


def _as_on_a_terminal() -> None:
    """Whoever runs the tests in the background has Ctrl-C ignored, and a child inherits that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("module", ["gc", "typer", "flexplan.cli.outcome", "flexplan.cli.plan"])
def test_it_ends_while_the_program_is_imported(module: str, number: int, code: int, tmp_path: Path) -> None:
    """A finder that raises the signal as soon as a module is asked for."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nclass F:\n    def find_spec(self, name, *rest):\n"
        f"        name == {module!r} and os.kill(os.getpid(), {number:d})\nsys.meta_path.insert(0, F())\n"
        f"sys.modules.pop({module!r}, None)\n"
    )
    child = program("solve", paths=(tmp_path,))
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (code, "", "interrupted\n")


@pytest.mark.parametrize("after", ["raise ImportError('half of numpy')", "class Planner:\n    pass"])
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_plugin_that_swallows_it_is_not_blamed(name: str, code: int, after: str, tmp_path: Path) -> None:
    (tmp_path / "swallows.py").write_text(_SWALLOWS.format(name, after))
    info = tmp_path / "swallows-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: swallows\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[flexplan.schedules]\nswallows = swallows:Planner\n")
    child = program("doctor", paths=(tmp_path,))  # which imports schedules here; solve does so in another process
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (code, "")
    assert "Traceback" not in err and "FP" not in err and err.endswith("interrupted\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_ends_while_a_schedule_is_imported_in_its_own_process(number: int, code: int, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    (tmp_path / "sleeps.py").write_text(f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\ntime.sleep(600)")
    info = tmp_path / "sleeps-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sleeps\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[flexplan.schedules]\nsleeps = sleeps:Schedule\n")
    child = program("solve", "--planner", "manual", "--schedule", "sleeps", paths=(tmp_path,))
    while not begun.exists() and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (code, "", "interrupted\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_it_ends_a_command_at_work(number: int, code: int) -> None:
    child = program("solve", "/dev/stdin")  # which waits for a problem that never comes
    while not _hears(child.pid, signal.SIGTERM):
        time.sleep(0.01)
    time.sleep(1)
    child.send_signal(number)
    assert (child.wait(timeout=60), child.stderr and child.stderr.read()) == (code, "interrupted\n")


@pytest.mark.parametrize(("output", "code"), [("out.jsonl", 75), ("-", 143)])
def test_it_stops_a_job_while_its_input_is_read(output: str, code: int, tmp_path: Path) -> None:
    """Where there is an output it is a stop, of which a scheduler knows that the job is to be begun again."""
    child = _job(tmp_path, output)
    assert child.stdin
    child.stdin.write("a prompt\n" * 100_000)  # more than a pipe holds: it reads
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=60)
    assert child.returncode == code and ("FP1301" in err and "go on with --resume" in err) == (code == 75)
    assert [file.name for file in tmp_path.iterdir()] == ["policy.json"]


def test_a_second_signal_ends_a_job_at_once_while_its_runtime_is_imported(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nclass F:\n    def find_spec(self, name, *rest):\n"
        "        name == 'flexplan_runtime' and [os.kill(os.getpid(), 15) for _ in 'ab']\nsys.meta_path.insert(0, F())"
    )
    child = _job(tmp_path, "out.jsonl", tmp_path)
    _, err = child.communicate("a prompt\n", timeout=60)
    assert (child.returncode, err) == (143, "interrupted\n")


def _job(place: Path, output: str, *paths: Path) -> subprocess.Popen[str]:
    policy = place / "policy.json"
    policy.write_text('{"gpu_batch_size": 1, "num_gpu_batches": 1}')
    out = output if output == "-" else str(place / output)
    return program("run", str(policy), "--model", "m", "--prompts", "-", "--format", "text", "-o", out, paths=paths)


def _hears(pid: int, number: int) -> bool:
    """Has the process a handler of its own?  A loaded machine takes seconds until it has."""
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_a_program_that_uses_the_library_keeps_its_own_handlers() -> None:
    code = "import signal; a = signal.getsignal(2); import flexplan.cli.app; assert signal.getsignal(2) is a"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
